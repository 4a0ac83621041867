"""How much of a draft's acceptance distilling wins back after noise has ruined its weights.

    python benchmarks/distill_noisy.py [--noise 0.2] [--steps 800] [--save FILE.md]

Adds normal noise to every matrix of builtin://helmsman-1m-draft, as many times the matrix's own
standard deviation as --noise says, and gives the copy to `aweigh distill`; then the shipped draft
itself, to see whether more can be had of it. Both are measured on the same held-out answers of
builtin://helmsman-8m.
"""

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from aweigh_bench import machine
from aweigh_cli.model_making import chosen, fetched
from aweigh_cli.quantize_progress import display
from aweigh_distill.acceptance import Acceptance
from aweigh_distill.job import Job, run
from aweigh_distill.outcome import Outcome
from aweigh_distill.recipe import Recipe
from aweigh_quantize.checkpoint import read_checkpoint
from aweigh_quantize.result import write_model
from aweigh_quantize.tensor_file import entry, write_tensors
from aweigh_runtime.model.mapped import mapped

TARGET, DRAFT = "builtin://helmsman-8m", "builtin://helmsman-1m-draft"
BAR = 0.9  # of the original's acceptance
SEED = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command."""

    found: Outcome
    cpu_s: float
    wall_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        noisy = Path(folder) / "noisy"
        add_noise(folder_of(DRAFT), noisy, given.noise)
        drafts = {f"noise {given.noise:g}": noisy, "as shipped": folder_of(DRAFT)}
        runs = {
            name: distilled(draft, Path(folder) / f"out-{index}", given)
            for index, (name, draft) in enumerate(drafts.items())
        }
    text = table(runs, f"python {' '.join(sys.argv)}")
    print(text)
    if given.save:
        given.save.write_text(text)


def add_noise(draft: Path, out: Path, noise: float) -> None:
    checkpoint = read_checkpoint(draft)
    generator = torch.Generator().manual_seed(SEED)
    changed = []
    for tensor, values in mapped(checkpoint.stored.values()):
        if values.dim() > 1:
            wide = values.float()
            wide += noise * wide.std() * torch.randn(wide.shape, generator=generator)
            changed.append(entry(tensor.name, wide.to(values.dtype)))
    added = out.with_suffix(".safetensors")
    write_tensors(added, changed)
    write_model(out, checkpoint, [added], {})


def distilled(draft: Path, out: Path, given: argparse.Namespace) -> Run:
    started_s, before_s = time.monotonic(), processor_s()
    with display() as shown:
        job = Job(
            target=TARGET,
            target_directory=folder_of(TARGET),
            draft=str(draft),
            draft_directory=draft,
            recipe=Recipe(steps=given.steps),
            out=out,
            device=chosen(given.device),
        )
        found = run(job, shown)
    return Run(found, processor_s() - before_s, time.monotonic() - started_s)


def processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def folder_of(uri: str) -> Path:
    return fetched(uri, None, Path(tempfile.gettempdir()))


def table(runs: dict[str, Run], command: str) -> str:
    noisy, shipped = (each.found.acceptance for each in runs.values())
    share = noisy["all"].after.value / shipped["all"].before.value
    verdict = "met" if share >= BAR else "missed"
    return "\n".join(
        [
            "# aweigh distill",
            "",
            f"`{command}`",
            "",
            " · ".join(f"{key} {value}" for key, value in machine.describe().items()),
            f"{torch.get_num_threads()} thread of torch. Held out: "
            f"{next(iter(runs.values())).found.num_held_out} prompts, with answers of the target.",
            "",
            "| draft | measure | prompts | tokens | before | after | gain |",
            "|---|---|---|---:|---:|---:|---:|",
            *(line for name, each in runs.items() for line in rows(name, each.found)),
            "",
            "| draft | processor s | wall s |",
            "|---|---:|---:|",
            *(f"| {name} | {each.cpu_s:.0f} | {each.wall_s:.0f} |" for name, each in runs.items()),
            "",
            f"Won back: {share:.0%} of the acceptance that the shipped draft has; bar {BAR:.0%}: "
            f"{verdict}. Noise had left "
            f"{noisy['all'].before.value / shipped['all'].before.value:.0%}.",
            "",
        ]
    )


def rows(name: str, found: Outcome) -> list[str]:
    return [
        row(name, measure, kind, each)
        for measure, of_kinds in (
            ("acceptance", found.acceptance),
            ("greedy agreement", found.agreement),
        )
        for kind, each in of_kinds.items()
    ]


def row(name: str, measure: str, kind: str, found: Acceptance) -> str:
    return (
        f"| {name} | {measure} | {kind} | {found.num_tokens:,} | {found.before} | {found.after} | "
        f"{found.gain} |"
    )


if __name__ == "__main__":
    main()
