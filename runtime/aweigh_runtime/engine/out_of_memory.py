"""Whether a device has run out of memory. Allocators say it in different ways."""

import torch


def out_of_memory(error: Exception) -> bool:
    """Allocators on a GPU have an exception of their own; torch's on a CPU raises RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def return_unused_memory() -> None:
    """Pieces that torch keeps may be too small for what is wanted next."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
