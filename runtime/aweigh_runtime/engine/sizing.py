"""How much of a device's memory keys and values take. Pure: it measures nothing, needs no torch.

A kind is `cpu` or `cuda`. The engine applies these numbers to what it has measured, `aweigh plan`
to what it estimates.
"""

STEP_TOKENS = {"cpu": 512, "cuda": 8192}  # of a forward pass, unless --step-tokens says otherwise
DRAFTED_TOKENS = 1024  # of a step: each needs a row of logits, and of its draft's probabilities
PRODUCT_TOKENS = (32, 64)  # of a step: up to so many dense products have kernels of their own
RECORDED_TOKENS = 2  # of an answer in a graph of a draft model: the last drafted, and the next
CPU_SHARE = 0.5  # of what is free; the rest belongs to others on the machine
CPU_BYTES = 4 << 30  # unless one request needs more: a machine's memory is not ours to fill
SPARE_SHARE = 0.05  # of a GPU: fragments, and what libraries take for themselves later


def compiled_tokens(step_tokens: int, *, experts: bool) -> list[int]:
    """Of steps that meet all kernels of products, beside those of few tokens.

    Args:
        step_tokens: of the largest.
        experts: whether there are some: theirs differ from one power of two to the next.
    """
    more = range(7, step_tokens.bit_length()) if experts else ()
    return [*PRODUCT_TOKENS, *(1 << power for power in more)]


def kv_bytes(kind: str, room: int, longest: int) -> int:
    """Bytes for keys and values where nobody has chosen a number.

    Args:
        kind: of the device.
        room: bytes that are left beside the weights and the largest step.
        longest: bytes that the longest request needs.
    """
    if kind != "cpu":
        return room
    return min(max(int(CPU_SHARE * room), min(longest, room)), max(CPU_BYTES, longest))


def spare_bytes(kind: str, device_bytes: int) -> int:
    """Bytes of a device that stay free."""
    return 0 if kind == "cpu" else int(SPARE_SHARE * device_bytes)
