"""Grammars for structured output: made from what clients ask for, and checked before the engine.

Nothing is compiled in this process, which only writes llguidance's JSON form; a process that can be
killed compiles it. Nothing that a schema refers to is fetched.
"""

import asyncio
import hashlib
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from aweigh_runtime.text.grammar_messages import Check, Checked, Prepare
from aweigh_runtime.text.worker import Died, NoAnswer, Worker

CHECK_DEADLINE_S = 5.0
WAIT_DEADLINE_S = 10.0  # for one's turn
MAX_GRAMMAR_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 32
MAX_KNOWN = 1024
_NUM_WORKERS = 2  # the second one starts when the first is busy
_GIVEN_UP_S = 300.0  # so long, a grammar that took too long is refused at once
_MAX_PROBLEM_CHARACTERS = 500
_WORKER = "aweigh_runtime.text.grammar_worker"
# A model that may write white space for ever sometimes does.
_JSON_SPACE = {"whitespace_pattern": r"(\x20|\x0A\x20{0,40})"}
# Where in a grammar something is wrong, and how the compiler begins to tell of a schema there.
_PLACE = re.compile(r"(?:at )?(\d+)\(\d+\): (?:failed to compile JSON schema: )?")
_SLASH = re.compile(r"\\.|/", re.DOTALL)  # and what is escaped, to pass over it

Schema = dict[str, Any] | bool


class GrammarRefused(ValueError):
    """No answer can be written in this grammar, or it exceeds a limit."""


class CheckersBusy(Exception):
    """Others' grammars have been compiled for so long that this one's turn did not come."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a grammar."""

    problem: str | None = None
    until_s: float = math.inf  # a slow one may do better when the machine is less busy


class Grammars:
    """Checks grammars for one model, one at a time for each caller, and remembers what came out."""

    def __init__(self, tokenizer: Path, vocab_size: int, end_tokens: Sequence[int]) -> None:
        order = Prepare(str(tokenizer), vocab_size, list(end_tokens))
        self._workers = [Worker(_WORKER, order) for _ in range(_NUM_WORKERS)]
        self._idle = list(self._workers)
        self._any_idle = asyncio.Semaphore(_NUM_WORKERS)
        self._turns: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()  # by digest, the oldest first

    async def check(self, grammar: str, caller: bytes = b"") -> None:
        """Return if answers can be written in it.

        Raises:
            GrammarRefused: with the reason.
            CheckersBusy: there was no time to find out.
            Died: the process that compiles was lost, perhaps through no fault of the grammar's.
        """
        name = hashlib.sha256(grammar.encode()).digest()
        verdict = self._verdict(name) or await self._learn(name, grammar, caller)
        if verdict.problem is not None:
            raise GrammarRefused(verdict.problem)

    async def close(self) -> None:
        """End the processes that compile."""
        for worker in self._workers:
            await worker.close()

    def _verdict(self, name: bytes) -> Verdict | None:
        known = self._known.get(name)
        if known is None or time.monotonic() > known.until_s:
            return None
        self._known.move_to_end(name)
        return known

    async def _learn(self, name: bytes, grammar: str, caller: bytes) -> Verdict:
        async with AsyncExitStack() as turn:
            try:
                async with asyncio.timeout(WAIT_DEADLINE_S):
                    await turn.enter_async_context(self._turns.setdefault(caller, asyncio.Lock()))
                    worker = await turn.enter_async_context(self._worker())
            except TimeoutError as error:
                raise CheckersBusy from error
            known = self._verdict(name)
            if known is not None:
                return known
            compiling = asyncio.ensure_future(self._compile(worker, name, grammar, turn.pop_all()))
        return await asyncio.shield(compiling)  # whoever goes away meanwhile keeps the turn

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[Worker]:
        async with self._any_idle:
            worker = self._idle.pop()  # the last one used, so that few processes run
            try:
                yield worker
            finally:
                self._idle.append(worker)

    async def _compile(
        self, worker: Worker, name: bytes, grammar: str, turn: AsyncExitStack
    ) -> Verdict:
        async with turn:
            try:
                body = await worker.ask(Check(grammar), CHECK_DEADLINE_S)
            except Died:
                raise
            except NoAnswer as error:
                until_s = time.monotonic() + _GIVEN_UP_S
                verdict = Verdict(f"compiling was given up: {error}", until_s)
            else:
                problem = msgspec.msgpack.decode(body, type=Checked).problem
                verdict = Verdict(problem and problem[:_MAX_PROBLEM_CHARACTERS])
        self._known[name] = verdict
        self._known.move_to_end(name)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return verdict


def without_place(problem: str) -> tuple[int | None, str]:
    """A line of the grammar, and what is wrong there: who has not written it needs no line."""
    place = _PLACE.match(problem)
    return (None, problem) if place is None else (int(place[1]), problem[place.end() :])


def of_schema(schema: Schema | str) -> str:
    """Any JSON value that the schema allows.

    Raises:
        GrammarRefused: a limit is exceeded, or the schema lies elsewhere.
    """
    if isinstance(schema, str):
        schema = _parsed(schema)
    if schema is False:
        raise GrammarRefused("the schema is false, which allows no answer")
    schema = {} if schema is True else schema
    expect_self_contained(schema)
    return _grammar({"json_schema": {**schema, "x-guidance": _JSON_SPACE}})


def of_regex(regex: str) -> str:
    """Any text that the whole of the expression matches.

    Raises:
        GrammarRefused: it is too long.
    """
    delimited = _SLASH.sub(lambda match: r"\/" if match.group() == "/" else match.group(), regex)
    return _grammar({"lark_grammar": f"start: /{delimited}/"})


def of_choice(alternatives: Sequence[str]) -> str:
    """One of these texts.

    Raises:
        GrammarRefused: they are too long together, or one is empty.
    """
    if not all(alternatives):
        raise GrammarRefused("an alternative is empty; expected at least one character")
    quoted = (json.dumps(text) for text in alternatives)
    return _grammar({"lark_grammar": f"start: {' | '.join(quoted)}"})


def of_lark(grammar: str, most_bytes: int = MAX_GRAMMAR_BYTES) -> str:
    """Any text of a grammar in Lark's notation.

    Raises:
        GrammarRefused: it is too long.
    """
    return _grammar({"lark_grammar": grammar}, most_bytes)


def _grammar(source: dict[str, Any], most_bytes: int = MAX_GRAMMAR_BYTES) -> str:
    grammar = json.dumps({"grammars": [source]}, ensure_ascii=False)
    size = len(grammar.encode())
    if size > most_bytes:
        raise GrammarRefused(f"it has {size} bytes; expected {most_bytes} at most")
    return grammar


def _parsed(text: str) -> Schema:
    try:
        schema: Schema = msgspec.json.decode(text, type=dict[str, Any] | bool)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise GrammarRefused("the schema is a text that is not a JSON object") from error
    return schema


def expect_self_contained(schema: Mapping[str, Any]) -> None:
    """Refuse a schema that is too deep or refers to another. Level by level: some are very deep.

    Raises:
        GrammarRefused: it is.
    """
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        for value in level:
            _expect_here(value)
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise GrammarRefused(f"the schema is nested deeper than {MAX_SCHEMA_DEPTH} levels")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _expect_here(value: Any) -> None:
    target = value.get("$ref") if isinstance(value, dict) else None
    if isinstance(target, str) and not target.startswith("#"):
        raise GrammarRefused(
            f"$ref is {target[:100]!r}; expected a place in the same schema, as '#/$defs/name': "
            "nothing is fetched"
        )
