"""A client of one stream, that joins what it is sent."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Streamed:
    """What a client has of a stream, also while it comes."""

    status: int = 0  # none yet
    ids: set[str] = field(default_factory=set)
    first_s: float | None = None  # of the clock, when its first text came
    texts: dict[int, str] = field(default_factory=dict)
    finishes: dict[int, int] = field(default_factory=dict)  # by answer, how often
    errors: list[dict[str, Any]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def whole(self) -> bool:
        """Whether it came to its end, and as one."""
        return self.done and not self.errors and len(self.ids) == 1

    async def read(self, session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
        """Ask for it and read all of it.

        Raises:
            aiohttp.ClientError: it breaks off.
        """
        asked = {**body, "stream": True}
        async with session.post(f"{url}/v1/completions", json=asked) as response:
            self.status = response.status
            if response.status != 200:
                self.errors.append((await response.json())["error"])
                return
            async for line in response.content:
                self._take(line.decode().strip())

    def _take(self, line: str) -> None:
        if line.startswith(":"):
            self.comments.append(line)
        elif line == "data: [DONE]":
            self.done = True
        elif line:
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                self.errors.append(event["error"])
                return
            self.ids.add(event["id"])
            for choice in event["choices"]:
                index = choice["index"]
                if choice["text"]:
                    self.first_s = self.first_s or time.time()
                self.texts[index] = self.texts.get(index, "") + choice["text"]
                if choice["finish_reason"]:
                    self.finishes[index] = self.finishes.get(index, 0) + 1
