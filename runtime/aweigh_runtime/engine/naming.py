"""Names of blocks: what a block holds and all that comes before it. Pure; it knows no pool.

    name of block i = SHA-256(name of block i - 1, its tokens),   the salt stands before block 0

SHA-256, so that no client can make two prompts collide. Equal names mean equal keys and values,
whoever computed them; another salt gives other names for the same tokens.
"""

import hashlib
from array import array
from collections.abc import Sequence

Name = bytes  # 32 of them


def salt(tenant: bytes, cache_salt: str | None) -> Name:
    """What the names of a tenant's blocks begin with. Nobody can choose another tenant's.

    Args:
        tenant: who asks: a digest of fixed length, or nothing where all share one cache.
        cache_salt: the request's own; separates requests of one tenant.
    """
    own = b"" if cache_salt is None else b"\x01" + cache_salt.encode()
    return hashlib.sha256(bytes([len(tenant)]) + tenant + own).digest()


def extend(
    names: list[Name], tokens: Sequence[int], salt: Name, block_tokens: int, num_blocks: int
) -> None:
    """Append the names that are missing up to `num_blocks`, all of whose tokens are known."""
    name = names[-1] if names else salt
    sha256, first = hashlib.sha256, len(names) * block_tokens
    content = array("I", tokens[first : num_blocks * block_tokens]).tobytes()
    width = block_tokens * 4
    for start in range(0, len(content), width):
        name = sha256(name + content[start : start + width]).digest()
        names.append(name)
