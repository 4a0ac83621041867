"""What `aweigh bench speculation --replay-acceptance` has found, as a report with its bars."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from aweigh_bench import machine
from aweigh_bench.paired import exceeds, verdict
from aweigh_bench.report import Bar, Cell, Curves, Report, Table
from aweigh_bench.shaped import drafts_named
from aweigh_bench.speculation import BAR_USELESS, BAR_WRONG, COLUMNS, Found

if TYPE_CHECKING:
    from aweigh_bench.replay import Options, Replayed

WARM_ROUNDS = 3  # in which the engine learns what drafting is worth; of each size
_USUAL_PERCENT = 80  # of drafted tokens that are right, for which there are bars on a GPU
_BAR_USUAL = 1.8  # times the tokens/s of one request at a time
_BAR_FP8 = 2.1  # the same with a draft whose weights are fp8
_MOST_AT_ONCE = 64  # up to so many requests drafts must gain something


def report_of(options: "Options", replayed: "list[Replayed]", *, on_gpu: bool) -> Report:
    """The table, and the bars that belong to what was asked for."""
    rows: list[tuple[Cell, ...]] = [
        (str(each.stated_percent), *each.found.cells, f"{100 * each.corrected:.2f}")
        for each in replayed
    ]
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in replayed:
        name = f"{each.stated_percent} % right, up to {each.found.longest}"
        lines.setdefault(name, []).append((each.found.size, each.found.gain.ratio))
    return Report(
        title="Drafts of a stated acceptance beside plain decoding",
        command=options.command,
        model=str(options.setting.model or options.setting.shape),
        machine=machine.describe(),
        tables=[Table(_described(options), ("right %", *COLUMNS, "corrected %"), rows)],
        bars=[*_cost_bars(options, replayed), *_gain_bars(options, replayed, on_gpu=on_gpu)],
        notes=[
            "Both engines run in this process, without HTTP. The one drafts what the other has "
            "answered before, each token right with the stated chance by itself and wrong "
            "otherwise; a token is accepted only if all before it are, so that fewer are accepted "
            "than are right.",
            "Where rounding made the model choose another token than it had before, the recorded "
            "one was kept: `corrected %` of all tokens. All that is computed is timed.",
            f"The first {WARM_ROUNDS} rounds of each size are not counted.",
            f"Threads of torch: {options.setting.threads or 'as the engine chooses'}.",
        ],
        figures={"found": [asdict(each) for each in replayed]},
        curves=[Curves("Tokens/s with drafts ÷ without", "requests at once", "ratio", lines)],
    )


def _described(options: "Options") -> str:
    low, high = options.input_tokens
    prompts = f"{low}" if low == high else f"{low} to {high}"
    draft = drafts_named(options.draft_models, options.draft_shape)
    if options.draft_quantization != "auto":
        draft = f"{draft} in {options.draft_quantization}"
    cost = f"in the time of {draft}" if draft else "in no time"
    return (
        f"Prompts of {prompts} random tokens, answers of {options.output_tokens}, greedy, drafted "
        f"{cost}: median of {options.pairs} interleaved pairs"
    )


def _cost_bars(options: "Options", replayed: "list[Replayed]") -> list[Bar]:
    """Drafts that are never right must cost next to nothing."""
    least = BAR_WRONG if options.setting.shape is None else BAR_USELESS
    return [
        Bar(
            f"tokens/s at {found.size} at once, up to {found.longest} drafted and none right, "
            "times those without",
            f">= {least:g}",
            str(found.gain),
            verdict(found.gain, least),
        )
        for found in (each.found for each in replayed if each.stated_percent == 0)
    ]


def _gain_bars(options: "Options", replayed: "list[Replayed]", *, on_gpu: bool) -> list[Bar]:
    """Of a draft of real size on a GPU; shorter drafts are beside it to tell what they give."""
    if options.draft_shape is None or not on_gpu:
        return []
    longest = max(options.max_draft_tokens)
    least = _BAR_FP8 if options.draft_quantization == "fp8" else _BAR_USUAL
    return [
        _gain_bar(each.found, least)
        for each in replayed
        if each.stated_percent == _USUAL_PERCENT
        and each.found.longest == longest
        and each.found.size <= _MOST_AT_ONCE
    ]


def _gain_bar(found: Found, least: float) -> Bar:
    what = (
        f"tokens/s at {found.size} at once, up to {found.longest} drafted and {_USUAL_PERCENT} % "
        "right, times those without"
    )
    if found.size == 1:
        return Bar(what, f">= {least:g}", str(found.gain), verdict(found.gain, least))
    return Bar(what, "> 1", str(found.gain), exceeds(found.gain, 1.0))
