"""The README.md of a quantized model: what it is, what was measured, how to have it again."""

from typing import TYPE_CHECKING

from aweigh_quantize.outcome import Outcome

if TYPE_CHECKING:
    from aweigh_quantize.job import Job

_MEGA = 1e6


def card(job: "Job", found: Outcome) -> str:
    """Markdown, with the header that model hubs read."""
    name = job.out.name
    return "\n".join(
        [
            "---",
            f"base_model: {job.model.partition('://')[2]}",
            "tags: [aweigh, quantized]",
            "---",
            f"# {name}",
            "",
            f"{job.model}, quantized to {found.layout}.",
            "",
            f"    {job.command}",
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
