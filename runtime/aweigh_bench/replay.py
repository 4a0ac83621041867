"""`aweigh bench speculation --replay-acceptance`: two engines here, one drafting from a record."""

import asyncio
import gc
import itertools
import random
import threading
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from aweigh_bench.failures import BenchFailure, Impossible
from aweigh_bench.interruption import interruption
from aweigh_bench.paired import compare
from aweigh_bench.progress import Advance, progress
from aweigh_bench.replay_report import WARM_ROUNDS, report_of
from aweigh_bench.report import Report
from aweigh_bench.shaped import BLOCK_TOKENS, cache_bytes, shaped
from aweigh_bench.speculation import Found
from aweigh_bench.subject import Setting, model_files
from aweigh_bench.traffic import Ids, Length

if TYPE_CHECKING:
    from aweigh_bench.recorded import Recorded
    from aweigh_bench.replayed_engine import ReplayedEngine
    from aweigh_runtime.engine.loop import Engine
    from aweigh_runtime.engine.messages import Start, Stepped

_LEAST_REQUESTS = 8  # of each engine in a pair
_FLAGS = (  # of `aweigh serve`
    *("dtype", "device", "quantization", "kv-cache-dtype", "exact", "random-weights"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    setting: Setting
    acceptance_percents: list[int]
    draft_models: list[str] = field(default_factory=list)
    draft_shape: str | None = None  # a draft with random weights, for a shape
    draft_quantization: str = "auto"  # of these weights
    max_draft_tokens: list[int] = field(default_factory=lambda: [8])
    batches: list[int] = field(default_factory=lambda: [1, 4, 16, 64])
    input_tokens: Length = (64, 64)
    output_tokens: int = 64
    pairs: int = 12
    command: str = "aweigh bench speculation"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one batch size gave at one acceptance and length."""

    stated_percent: int
    corrected: float  # share of tokens for which the model itself would have said another one
    found: Found


async def run(options: Options) -> Report:
    """Every pair computes the same answers in both engines; who goes first alternates.

    After SIGINT the pair under way is the last one, and what the others have given is reported.
    """
    if options.draft_quantization != "auto" and options.draft_shape is None:
        raise Impossible(
            f"--draft-quantization is {options.draft_quantization}, and no draft has random "
            "weights; expected --draft-shape beside it"
        )
    if len(options.draft_models) > 1:
        raise Impossible("--replay-acceptance takes the time of one --draft-model at most")
    with shaped(options.setting, options.draft_models, options.draft_shape) as pair:
        served = replace(options, setting=pair.setting, draft_models=list(pair.draft_models))
        start = _start(served)
        with interruption() as enough:
            replayed = await asyncio.to_thread(_run, served, start, enough)
    if not replayed:
        raise BenchFailure("interrupted before one pair was measured; there is nothing to report")
    report = report_of(options, replayed, on_gpu=_on_gpu(start))
    if enough.is_set():
        report.notes.append("Interrupted: what had not been measured by then is missing.")
    return report


def _run(options: Options, start: "Start", enough: threading.Event) -> list[Replayed]:
    """In one thread: that is how an engine runs."""
    from aweigh_runtime.engine.out_of_memory import return_unused_memory

    directory = model_files(options.setting)
    drafts = [model_files(replace(options.setting, model=uri)) for uri in options.draft_models]
    cases = list(itertools.product(options.acceptance_percents, options.max_draft_tokens))
    rounds = len(cases) * len(options.batches) * (options.pairs + WARM_ROUNDS)
    found: list[Replayed] = []
    with progress("pairs", rounds) as advance:
        for percent, longest in cases:
            if enough.is_set():
                break
            computing = _computing(options, start, (directory, drafts), (percent, longest))
            found += _sizes(options, computing, (percent, longest), advance, enough)
            del computing
            gc.collect()
            return_unused_memory()  # the next engines ask what is free
    return found


def _computing(
    options: Options, start: "Start", files: tuple[Path, list[Path]], case: tuple[int, int]
) -> "_Computing":
    """The engines of one acceptance and length: what another has taught them must not count."""
    import torch

    from aweigh_bench.recorded import Recorded
    from aweigh_bench.replayed_engine import ReplayedEngine
    from aweigh_runtime.engine.assembly import build, parts
    from aweigh_runtime.engine.messages import Draft
    from aweigh_runtime.failures import StartFailure
    from aweigh_runtime.model.architectures import read_config

    directory, drafts = files
    percent, longest = case
    chance = random.Random(options.setting.seed)
    drafting = msgspec.structs.replace(
        start,
        # Drafts that take no time are verified as those of n-grams are, which take almost none.
        speculation="draft" if drafts else "ngram",
        max_draft_tokens=longest,
        drafts=[Draft(uri, scheme=options.draft_quantization) for uri in options.draft_models],
    )
    try:
        recorded = Recorded(percent / 100, read_config(directory).vocab_size, chance)
        plain, _ = build(start, directory, _silent)
        made = parts(drafting, directory, _silent, drafts)
    except StartFailure as failure:
        raise BenchFailure(str(failure)) from failure
    if made.proposers.failures:
        raise Impossible(
            f"{made.proposers.failures[0].message}; expected a draft whose time can be taken"
        )
    replayed = ReplayedEngine(recorded, drafting, made)
    if options.setting.threads is not None:
        torch.set_num_threads(options.setting.threads)
    return _Computing(options, plain, replayed, recorded)


def _sizes(
    options: Options,
    computing: "_Computing",
    case: tuple[int, int],
    advance: Advance,
    enough: threading.Event,
) -> Iterator[Replayed]:
    """What each size gives, as far as there is time."""
    percent, longest = case
    for size in options.batches:
        if enough.is_set():
            return
        ratios: list[tuple[float, float]] = []
        prompts = computing.record(size)
        for number in range(-WARM_ROUNDS, options.pairs):
            if enough.is_set():
                break
            if number == 0:
                computing.forget()
            ratios.append(computing.pair(prompts, size, number))
            advance(f"{size} at once, {percent} % right, up to {longest} drafted")
        if len(ratios) > WARM_ROUNDS:
            yield computing.found(case, size, ratios[WARM_ROUNDS:])


class _Computing:
    """The two engines and what they are asked."""

    def __init__(
        self, options: Options, plain: "Engine", replayed: "ReplayedEngine", recorded: "Recorded"
    ) -> None:
        self._options = options
        self._plain = plain
        self._replayed = replayed
        self._recorded = recorded
        self._ids = itertools.count(1)
        self._draw = Ids(options.setting.seed, options.setting.vocabulary)
        self._last: Stepped | None = None  # of the engine that drafts
        self._before: tuple[Stepped, int] | None = None

    def record(self, size: int) -> "list[tuple[list[int], list[int]]]":
        """New prompts, and what the model answers without drafts."""
        low, high = self._options.input_tokens
        count = max(size, _LEAST_REQUESTS)
        prompts = [self._draw.draw(self._draw.random.randint(low, high)) for _ in range(count)]
        answers: dict[int, list[int]] = {}
        ids = self._compute(self._plain, prompts, size, answers)
        return [(prompt, answers[id]) for prompt, id in zip(prompts, ids, strict=True)]

    def pair(
        self, known: "list[tuple[list[int], list[int]]]", size: int, number: int
    ) -> tuple[float, float]:
        """Tokens per second with drafts, and without."""
        order = (True, False) if number % 2 else (False, True)
        rates = {drafting: self._rate(known, size, drafting=drafting) for drafting in order}
        return rates[True], rates[False]

    def forget(self) -> None:
        """What counts begins now."""
        assert self._last is not None
        self._before = self._last, self._corrected

    def found(self, case: tuple[int, int], size: int, rates: list[tuple[float, float]]) -> Replayed:
        """All that there is to tell of one size."""
        assert self._last is not None
        assert self._before is not None
        (before, corrected), after = self._before, self._last

        def grown(name: str) -> int:
            return int(getattr(after.counters, name) - getattr(before.counters, name))

        drafted, rows = grown("drafted_tokens"), grown("decoded_rows")
        return Replayed(
            stated_percent=case[0],
            corrected=(self._corrected - corrected) / max(grown("generated_tokens"), 1),
            found=Found(
                longest=case[1],
                size=size,
                gain=compare([on / off for on, off in rates]),
                with_drafts=median(on for on, _ in rates),
                without=median(off for _, off in rates),
                acceptance=grown("accepted_tokens") / drafted if drafted else None,
                per_step=grown("decode_tokens") / rows if rows else None,
                state="unknown" if after.speculation is None else after.speculation.state,
            ),
        )

    @property
    def _corrected(self) -> int:
        return self._replayed.corrected

    def _rate(
        self, known: "list[tuple[list[int], list[int]]]", size: int, *, drafting: bool
    ) -> float:
        prompts = [prompt for prompt, _ in known]
        started_s = time.perf_counter()
        if drafting:
            self._compute(self._replayed, prompts, size, told=[answer for _, answer in known])
        else:
            self._compute(self._plain, prompts, size)
        seconds = time.perf_counter() - started_s
        return len(prompts) * self._options.output_tokens / seconds

    def _compute(
        self,
        engine: "Engine",
        prompts: list[list[int]],
        size: int,
        answers: dict[int, list[int]] | None = None,
        told: list[list[int]] | None = None,
    ) -> list[int]:
        """Keep `size` of them running until all are answered; the ids they were given."""
        from aweigh_runtime.engine.messages import Sampling, Submission, Work

        ids = [next(self._ids) for _ in prompts]
        if told is not None:
            self._recorded.answers = dict(zip(ids, told, strict=True))
        greedy = Sampling(temperature=0.0)
        # The engine goes on writing in a prompt that it was given.
        waiting = iter(
            Submission(id, list(prompt), self._options.output_tokens, [], greedy)
            for id, prompt in zip(ids, prompts, strict=True)
        )
        engine.take(Work(list(itertools.islice(waiting, size)), []))
        left = len(ids)
        while left:
            stepped = engine.step()
            if stepped.failures:
                raise BenchFailure(f"an answer failed: {stepped.failures[0].message}")
            ended = sum(output.finish is not None for output in stepped.outputs)
            if answers is not None:
                for output in stepped.outputs:
                    answers.setdefault(output.id, []).extend(output.tokens)
            if ended:
                left -= ended
                engine.take(Work(list(itertools.islice(waiting, ended)), []))
        if told is not None:
            self._last = _frozen(stepped)
        return ids


def _frozen(stepped: "Stepped") -> "Stepped":
    """The engine counts on in the same object."""
    return msgspec.structs.replace(stepped, counters=copy(stepped.counters))


def _start(options: Options) -> "Start":
    """What the engine process would be told, with memory for this measurement alone."""
    from aweigh_runtime.engine.messages import Start

    given = _given(options.setting.flags)
    longest = options.input_tokens[1] + options.output_tokens
    room = cache_bytes(options.setting, options.draft_models, longest, max(options.batches))
    return Start(
        uri=str(options.setting.model),
        revision=None,
        secret_dir=None,
        cache_dir=str(options.setting.cache_dir),
        max_model_len=longest,
        dtype=given.get("dtype", "auto"),
        quantization=given.get("quantization", "auto"),
        kv_cache_dtype=given.get("kv-cache-dtype", "auto"),
        device=given.get("device", "auto"),
        exact="exact" in given,
        max_running=max(options.batches),
        step_tokens=None,
        block_tokens=BLOCK_TOKENS,
        kv_cache_bytes=room,
        prefix_caching=False,  # the same prompts come again and again
        prefix_cache_bytes=None,
        host_memory_bytes=0,
        random_weights="random-weights" in given,
    )


def _on_gpu(start: "Start") -> bool:
    import torch

    return start.device != "cpu" and torch.cuda.is_available()


def _given(flags: tuple[str, ...]) -> dict[str, str]:
    given = {}
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        if name not in _FLAGS:
            raise Impossible(
                f"--serve-flag is {flag}, and --replay-acceptance starts no server; expected one "
                f"of {', '.join(f'--{each}' for each in _FLAGS)}"
            )
        given[name] = value
    return given


def _silent(done: int, total: int | None) -> None:
    """Nobody watches."""
