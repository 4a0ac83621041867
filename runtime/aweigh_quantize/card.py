"""The README.md of a quantized model: what it is, what was measured, how to have it again."""

from aweigh_quantize.outcome import Outcome

_MEGA = 1e6
_HUB = "hf://"


def card(name: str, model: str, command: str, found: Outcome) -> str:
    """Markdown, with the header that model hubs read.

    Args:
        name: of the quantized model.
        model: URI of the dense one. The header names it if it is a hub's.
        command: that has made it.
        found: what came of it.
    """
    base = [f"base_model: {model.removeprefix(_HUB)}"] if model.startswith(_HUB) else []
    return "\n".join(
        [
            "---",
            *base,
            "tags: [aweigh, quantized]",
            "---",
            f"# {name}",
            "",
            f"{model}, quantized to {found.layout}.",
            "",
            f"    {command}",
            "",
            f"    aweigh serve file://{{path of this folder}} --model-name {name}",
            "",
            *_losses(found),
            "",
            *_sizes(found),
            "",
        ]
    )


def _losses(found: Outcome) -> list[str]:
    lines = [
        "## Loss",
        "",
        "Against the dense model, in fp32. In brackets: an interval that holds the true mean in "
        "95 % of all cases, by documents.",
        "",
        "| text | tokens | KL, nats per token | same likeliest token | perplexity | dense |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, loss in found.losses.items():
        lines.append(
            f"| {name} | {loss.num_tokens:,} | {loss.kl} | {loss.agreement} | "
            f"{loss.perplexity:.4g} | {loss.dense_perplexity:.4g} |"
        )
    return lines


def _sizes(found: Outcome) -> list[str]:
    sizes = found.sizes
    return [
        "## Size",
        "",
        "| | dense | quantized |",
        "|---|---:|---:|",
        f"| weight files, MB | {sizes.dense / _MEGA:.1f} | {sizes.written / _MEGA:.1f} |",
        f"| quantized matrices, MB | {sizes.dense_matrices / _MEGA:.1f} | "
        f"{sizes.matrices / _MEGA:.1f} |",
        f"| bits of a weight in them, scales included | "
        f"{8 * sizes.dense_matrices / max(sizes.num_weights, 1):.2f} | {sizes.bits:.2f} |",
    ]
