"""Compiles grammars for structured output beside the step loop, which never waits for one.

A grammar is compiled once and copied for each answer; few are kept.
"""

import time
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llguidance import LLTokenizer

from aweigh_runtime.engine.matcher import Matcher, Prototype
from aweigh_runtime.text.grammar_compiler import GrammarError, compile_grammar, load_tokenizer

_COMPILING_THREADS = 2  # a slow grammar does not hold up the next one
_MOST_KEPT = 64  # compiled grammars
_MOST_KEPT_CHARACTERS = 2 << 20  # of their text; compiled, they take about 50 times as much,
_MOST_KEPT_S = 5.0  # or, where a few characters explode, about 40 MB for a second of compiling


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of one request's grammar."""

    id: int
    matcher: Matcher | None
    error: str = ""  # why there is no matcher


class Grammars:
    """Compiles grammars for one tokenizer. One thread owns it; the compiling has its own."""

    def __init__(self, directory: Path, vocab_size: int, stop_tokens: Collection[int]) -> None:
        self.stop_tokens = frozenset(stop_tokens)
        self._threads = ThreadPoolExecutor(_COMPILING_THREADS, thread_name_prefix="grammar")
        self._tokenizer = self._threads.submit(
            load_tokenizer, directory / "tokenizer.json", vocab_size, self.stop_tokens
        )
        self._kept: OrderedDict[str, Future[Prototype]] = OrderedDict()  # longest unused first
        self._waiting: dict[int, tuple[str, Future[Prototype]]] = {}

    def submit(self, id: int, grammar: str) -> None:
        """Compile a request's grammar, as `LLMatcher.grammar_from_*` makes it, if it is new."""
        future = self._kept.pop(grammar, None)
        if future is None or _spoilt(future):
            future = self._threads.submit(_prototype, self._tokenizer, grammar)
        self._kept[grammar] = future
        self._waiting[id] = grammar, future
        self._forget()

    def cancel(self, id: int) -> None:
        """Nobody waits for this request any more; one that is not compiling is no error."""
        self._waiting.pop(id, None)

    def poll(self) -> list[Compiled]:
        """What is done. It never waits."""
        done = [id for id, (_, future) in self._waiting.items() if future.done()]
        return [self._result(id) for id in done]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _result(self, id: int) -> Compiled:
        grammar, future = self._waiting.pop(id)
        error = future.exception()
        if error is None:
            return Compiled(id, Matcher(future.result(), self.stop_tokens))
        if self._kept.get(grammar) is future:
            del self._kept[grammar]
        why = str(error) if isinstance(error, GrammarError) else repr(error)
        return Compiled(id, None, f"the grammar cannot be used: {why}")

    def _forget(self) -> None:
        """Drop the longest unused, but never the last: it may be larger than all that is kept."""
        while len(self._kept) > 1 and (
            len(self._kept) > _MOST_KEPT
            or sum(map(len, self._kept)) > _MOST_KEPT_CHARACTERS
            or sum(map(_compiling_s, self._kept.values())) > _MOST_KEPT_S
        ):
            self._kept.popitem(last=False)


def _prototype(tokenizer: Future[LLTokenizer], grammar: str) -> Prototype:
    known_tokens = tokenizer.result()
    started = time.perf_counter()
    backend = compile_grammar(known_tokens, grammar)
    return Prototype(backend, time.perf_counter() - started)


def _spoilt(future: Future[Prototype]) -> bool:
    return future.done() and (future.exception() is not None or future.result().spoilt)


def _compiling_s(future: Future[Prototype]) -> float:
    known = future.done() and future.exception() is None
    return future.result().compiling_s if known else 0.0
