"""In which numbers pods keep weights, keys and values: the part `quantization`."""

from pydantic import Field

from aweigh_api.number_formats import KvCacheDTypeName, SchemeName
from aweigh_api.schema import Schema


class Quantization(Schema):
    """Numbers of fewer bits take less memory and less time to read."""

    scheme: SchemeName = Field(
        default="auto",
        description="How the weights are quantized. auto is what the checkpoint says. fp8 and int8 "
        "quantize a dense checkpoint while it is loaded, and fp8 brings one of nvfp4 to 8 bits; "
        "every other value must be what the checkpoint has (none: dense), else the "
        "InferenceService is refused with what it has.",
    )
    kv_cache_dtype: KvCacheDTypeName = Field(
        default="auto",
        description="Number format of cached keys and values. auto is that of the activations, or "
        "fp8 where the checkpoint was made for it. fp8 holds twice as many tokens as bf16.",
    )
