"""Whether a device has run out of memory. Allocators say it in different ways."""

import torch

_WORDS = (  # of a RuntimeError
    "can't allocate memory",  # torch, on a CPU
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS, for its handle and its workspace
    "out of memory",  # CUDA itself, where it loads or launches a kernel: torch's, Triton's, ours
)


def out_of_memory(error: Exception) -> bool:
    """Allocators on a GPU have an exception of their own; all others are known by their words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def return_unused_memory() -> None:
    """Pieces that torch keeps may be too small for what is wanted next."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
