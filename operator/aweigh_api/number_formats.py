"""Names of number formats, as specs and flags spell them. No imports: `--help` stays quick."""

from typing import Literal

SchemeName = Literal["auto", "none", "gptq", "awq", "fp8", "int8", "int4", "nvfp4", "marlin24"]
KvCacheDTypeName = Literal["auto", "bf16", "fp8"]
