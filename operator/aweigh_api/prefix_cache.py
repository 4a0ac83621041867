"""How prompts that begin alike are computed once: the part `prefixCache` of an InferenceService."""

from typing import ClassVar, Literal

from pydantic import Field

from aweigh_api.fields import Memory
from aweigh_api.quantity import to_bytes
from aweigh_api.schema import Rule, Schema

CacheScope = Literal["Key", "Service"]
LARGEST = "1Pi"
_LARGEST_BYTES = to_bytes(LARGEST)


def _some_memory(part: str, field: str) -> Rule:
    amount = f"quantity(string(self.{part}))"
    return Rule(
        # What is no quantity is told of the field itself.
        cel=f"!has(self.{part}) || !isQuantity(string(self.{part})) || "
        f"({amount}.isGreaterThan(quantity('0')) && "
        f"{amount}.compareTo(quantity('{LARGEST}')) <= 0)",
        message=f"prefixCache.{part} must be more than 0 and at most {LARGEST}: remove it, or give "
        "an amount of memory such as 40Gi",
        holds=lambda cache: (
            getattr(cache, field) is None or 1 <= to_bytes(getattr(cache, field)) <= _LARGEST_BYTES
        ),
    )


class PrefixCache(Schema):
    """What pods keep of prompts and answers, so that the next one that begins alike is quick."""

    enabled: bool = Field(default=True, description="Whether anything is kept.")
    size: Memory | None = Field(
        default=None,
        description="Most memory, of that for keys and values, that may hold what no request uses. "
        "Default, and where it is larger: all of it.",
    )
    host_memory: Memory | None = Field(
        default=None,
        description="Host memory of each pod for what the device has no room for. The pod's memory "
        "request, and limit where there is one, are raised by it.",
    )
    block_tokens: Literal[16, 32, 64, 128] | None = Field(
        default=None,
        description="Tokens that are kept and found together: 16, 32, 64 or 128. Default: 16.",
    )
    scope: CacheScope = Field(
        default="Key",
        description="Who shares what is kept: the requests of one API key, or all of the service. "
        "With Service, a client can tell by the time that an answer takes what others asked.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # The default {} is judged before the defaults inside of it are there: hence has().
            cel="self.enabled || !(has(self.size) || has(self.hostMemory) || "
            "has(self.blockTokens) || has(self.scope) && self.scope != 'Key')",
            message="prefixCache.size, hostMemory, blockTokens and scope have no effect with "
            "prefixCache.enabled false: remove them, or enable it",
            holds=lambda cache: (
                cache.enabled
                or (
                    (cache.size, cache.host_memory, cache.block_tokens) == (None, None, None)
                    and cache.scope == "Key"
                )
            ),
        ),
        _some_memory("size", "size"),
        _some_memory("hostMemory", "host_memory"),
    )
