"""Where a model's directory says how its weights are quantized: known without torch."""

CONFIG = "config.json"
CONFIG_FIELDS = ("quantization_config", "compression_config")
SIDE_FILES = {
    "quantize_config.json": "gptq",  # AutoGPTQ, GPTQModel
    "quant_config.json": "awq",  # AutoAWQ, long ago
    "hf_quant_config.json": "modelopt",
}
"""Where packers wrote what config.json lacks, with the method of those that name none."""
