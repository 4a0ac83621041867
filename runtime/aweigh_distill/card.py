"""The README.md of a distilled draft: what it is for, what was measured, how to have it again."""

from collections.abc import Iterator, Mapping

from aweigh_distill.acceptance import Acceptance
from aweigh_distill.outcome import Outcome


def card(name: str, draft: str, target: str, command: str, found: Outcome) -> str:
    """Markdown, with the header that model hubs read."""
    return "\n".join(
        [
            "---",
            f"base_model: {draft.partition('://')[2] or draft}",
            "tags: [aweigh, speculative-decoding, draft]",
            "---",
            f"# {name}",
            "",
            f"{draft}, tuned to draft for {target} in speculative decoding.",
            "",
            f"    {command}",
            "",
            f"    aweigh serve {target} --draft-model file://{{path of this folder}}",
            "",
            "## Measured",
            "",
            f"On {found.num_held_out:,} prompts that were held out of training, with answers of "
            f"the target itself; {found.num_training:,} answers to others were trained on. In "
            "brackets: an interval that holds the true mean in 95 % of all cases, by documents; "
            "that of the gain is of pairs.",
            "",
            *table(found),
            "",
            *_verdict(found),
        ]
    )


def _verdict(found: Outcome) -> list[str]:
    if found.is_worse:
        return ["It is worse than the draft that it was made of: keep that one.", ""]
    if not found.is_better:
        return ["It is not sure to be accepted more often than before.", ""]
    return []


def table(found: Outcome) -> list[str]:
    """What was measured, in Markdown."""
    return [
        "| measure | prompts | tokens | before | after | gain |",
        "|---|---|---:|---:|---:|---:|",
        *_rows("acceptance of a token, temperature 1", found.acceptance),
        *_rows("same likeliest token, greedy answers", found.agreement),
    ]


def _rows(measure: str, found: Mapping[str, Acceptance]) -> Iterator[str]:
    for kind, each in found.items():
        yield (
            f"| {measure} | {kind} | {each.num_tokens:,} | {each.before} | {each.after} | "
            f"{each.gain} |"
        )
