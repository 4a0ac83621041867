"""Compiles grammars for structured output beside the step loop, which never waits for one.

A grammar is compiled once and copied for each answer; few are kept. What nobody waits for any more
is not compiled, and no caller's many grammars stand before another's first.
"""

import time
from collections import OrderedDict, deque
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


@dataclass(slots=True, eq=False)
class _Job:
    """One grammar, and what becomes of it."""

    grammar: str
    waiting: int = 0  # requests
    future: Future[Prototype] | None = None  # None: no thread has taken it yet

    @property
    def done(self) -> bool:
        return self.future is not None and self.future.done()

    @property
    def useless(self) -> bool:
        """It is of no use to one more request."""
        if self.future is None or not self.future.done():
            return False
        return self.future.exception() is not None or self.future.result().spoilt

    @property
    def compiling_s(self) -> float:
        known = self.future is not None and self.done and self.future.exception() is None
        return self.future.result().compiling_s if self.future is not None and known else 0.0


class Grammars:
    """Compiles grammars for one tokenizer. One thread owns it; the compiling has its own."""

    def __init__(self, directory: Path, vocab_size: int, stop_tokens: Collection[int]) -> None:
        self.stop_tokens = frozenset(stop_tokens)
        self._threads = ThreadPoolExecutor(_COMPILING_THREADS, thread_name_prefix="grammar")
        self._tokenizer = self._threads.submit(
            load_tokenizer, directory / "tokenizer.json", vocab_size, self.stop_tokens
        )
        self._kept: OrderedDict[str, _Job] = OrderedDict()  # longest unused first
        self._waiting: dict[int, tuple[bytes, _Job]] = {}  # by request: its caller, its grammar
        self._lines: OrderedDict[bytes, deque[_Job]] = OrderedDict()  # whose turn is next first
        self._compiling: list[_Job] = []

    def submit(self, id: int, grammar: str, caller: bytes = b"") -> None:
        """Compile a request's grammar, as `LLMatcher.grammar_from_*` makes it, if it is new.

        Args:
            id: of the request.
            grammar: its text.
            caller: callers take turns.
        """
        job = self._kept.pop(grammar, None)
        if job is None or job.useless:
            job = _Job(grammar)
        if job.future is None:
            self._lines.setdefault(caller, deque()).append(job)
        job.waiting += 1
        self._kept[grammar] = job
        self._waiting[id] = caller, job
        self._feed()
        self._forget()

    def cancel(self, id: int) -> None:
        """Nobody waits for this request any more; one that is not compiling is no error."""
        caller, job = self._waiting.pop(id, (b"", None))
        if job is None:
            return
        job.waiting -= 1
        if job.future is None:
            self._lines[caller].remove(job)
            if not self._lines[caller]:
                del self._lines[caller]
            if not job.waiting and self._kept.get(job.grammar) is job:
                del self._kept[job.grammar]

    def poll(self) -> list[Compiled]:
        """What is done. It never waits."""
        self._feed()
        done = [id for id, (_, job) in self._waiting.items() if job.done]
        return [self._result(id) for id in done]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _feed(self) -> None:
        """Give every free thread the next grammar in turn."""
        self._compiling = [job for job in self._compiling if not job.done]
        while self._lines and len(self._compiling) < _COMPILING_THREADS:
            caller, line = self._lines.popitem(last=False)
            job = line.popleft()
            if line:
                self._lines[caller] = line
            if job.future is None:  # else it stood in another caller's line, too
                job.future = self._threads.submit(_prototype, self._tokenizer, job.grammar)
                self._compiling.append(job)

    def _result(self, id: int) -> Compiled:
        _, job = self._waiting.pop(id)
        job.waiting -= 1
        assert job.future is not None
        error = job.future.exception()
        if error is None:
            return Compiled(id, Matcher(job.future.result(), self.stop_tokens))
        if self._kept.get(job.grammar) is job:
            del self._kept[job.grammar]
        why = str(error) if isinstance(error, GrammarError) else repr(error)
        return Compiled(id, None, f"the grammar cannot be used: {why}")

    def _forget(self) -> None:
        """Drop the longest unused, but never the last: it may be larger than all that is kept."""
        while len(self._kept) > 1 and (
            len(self._kept) > _MOST_KEPT
            or sum(map(len, self._kept)) > _MOST_KEPT_CHARACTERS
            or sum(job.compiling_s for job in self._kept.values()) > _MOST_KEPT_S
        ):
            self._kept.popitem(last=False)


def _prototype(tokenizer: Future[LLTokenizer], grammar: str) -> Prototype:
    known_tokens = tokenizer.result()
    started = time.perf_counter()
    backend = compile_grammar(known_tokens, grammar)
    return Prototype(backend, time.perf_counter() - started)
