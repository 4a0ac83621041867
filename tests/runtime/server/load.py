"""Random requests of every kind, and clients that leave at every moment."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.runtime.serving import MODEL

Body = dict[str, Any]

ANSWER_S = 90.0  # a request that has no answer by then will never have one
BUSY = 429
STEMS = [" ".join(f"word{stem}{word}" for word in range(60)) for stem in range(6)]
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["Pod", "Node"]}, "ready": {"type": "boolean"}},
    "required": ["kind", "ready"],
    "additionalProperties": False,
}
FUNCTION = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}}


@dataclass(frozen=True)
class Kind:
    """What a request asks for, and the status that an idle server gives it."""

    fields: Body
    status: int = 200


KINDS = {
    "plain": Kind({}),
    "sampled": Kind({"temperature": 1.2, "top_p": 0.9, "top_k": 40, "presence_penalty": 0.5}),
    "stops": Kind({"temperature": 1, "stop": ["e", " the"], "include_stop_str_in_output": True}),
    "several": Kind({"temperature": 1, "n": 4}),
    "logprobs": Kind({"logprobs": True, "top_logprobs": 5, "temperature": 1}),
    "prompt logprobs": Kind({"prompt_logprobs": 3, "stream": False}),
    "salted": Kind({"cache_salt": "salt"}),
    "biased": Kind({"logit_bias": {"300": -100, "301": 5}, "seed": 3, "temperature": 1}),
    "schema": Kind({"structured_outputs": {"json": SCHEMA}, "temperature": 1}),
    "choice": Kind({"structured_outputs": {"choice": ["yes", "no", "perhaps"]}}),
    "regex": Kind({"structured_outputs": {"regex": "[a-f]{3,30}"}, "temperature": 1}),
    "tools": Kind({"tools": [FUNCTION], "tool_choice": "required"}),
    "free tools": Kind({"tools": [FUNCTION], "temperature": 1}),
    "too hot": Kind({"temperature": 9}, 400),
    "no regex": Kind({"structured_outputs": {"regex": "(("}}, 400),
    "too long": Kind({"max_tokens": 100_000}, 400),
    "another model": Kind({"model": "other"}, 404),
}


@dataclass
class Tally:
    """What became of the requests."""

    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    left: int = 0
    wrong: list[str] = field(default_factory=list)  # one sentence for each


class Client:
    """Asks one server at random until told to stop."""

    def __init__(self, url: str, keys: list[str], dice: random.Random) -> None:
        self.tally = Tally()
        self._url = f"{url}/v1/chat/completions"
        self._keys = keys
        self._dice = dice

    async def run(self, num_workers: int, going: Callable[[], bool]) -> None:
        """So many requests at a time."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            for _ in range(num_workers):
                tasks.create_task(self._work(session, going))

    async def _work(self, session: aiohttp.ClientSession, going: Callable[[], bool]) -> None:
        while going():
            name = self._dice.choice(list(KINDS))
            self.tally.asked[name] += 1
            try:
                await self._ask(session, name)
            except (TimeoutError, aiohttp.ClientError) as error:
                self.tally.wrong.append(f"{name}: {type(error).__name__} {error}")

    async def _ask(self, session: aiohttp.ClientSession, name: str) -> None:
        body = self._body(KINDS[name])
        key = self._dice.choice(self._keys)
        leaving_s = self._dice.choice([None, None, None, 0.002, 0.02, 0.1, 0.5, 2])
        headers = {"Authorization": f"Bearer {key}"}
        try:
            async with asyncio.timeout(leaving_s):
                async with session.post(self._url, json=body, headers=headers) as response:
                    await self._read(response, name, body)
        except TimeoutError:
            if leaving_s is None:
                raise
            self.tally.left += 1

    async def _read(self, response: aiohttp.ClientResponse, name: str, body: Body) -> None:
        status = response.status
        if status not in (KINDS[name].status, BUSY):
            self.tally.wrong.append(f"{name}: {status} {await response.text()}")
            return
        self.tally.answered[status] += 1
        if status == BUSY:
            await response.read()
            await asyncio.sleep(self._dice.uniform(0.2, 0.6))
        elif body["stream"] and status == 200:
            await self._read_events(response, name)
        else:
            json.loads(await response.read())

    async def _read_events(self, response: aiohttp.ClientResponse, name: str) -> None:
        """Sometimes only the first ones; then the connection closes, perhaps after a while."""
        wanted = self._dice.choice([None, None, 1, 5])
        last, num_read = b"", 0
        async for line in response.content:
            if not line.strip():
                continue
            last, num_read = line.strip(), num_read + 1
            if num_read == wanted:
                await asyncio.sleep(self._dice.choice([0, 0.3]))
                self.tally.left += 1
                response.close()
                return
        if last != b"data: [DONE]":
            self.tally.wrong.append(f"{name}: its stream ends with {last[:200]!r}")

    def _body(self, kind: Kind) -> Body:
        dice = self._dice
        stem = dice.choice(STEMS)[: dice.choice([0, 40, 200, 400])]
        return {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"{stem} {dice.randrange(1000)}?"}],
            "max_tokens": dice.choice([1, 8, 30, 120, 250]),
            "temperature": 0,
            "ignore_eos": dice.random() < 0.5 and "structured_outputs" not in kind.fields,
            "stream": dice.random() < 0.5,
            **kind.fields,
        }
