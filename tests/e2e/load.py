"""Clients that ask without a pause, and count every answer that is not whole."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

PREFIX = "A Deployment keeps a number of pods of one template running. " * 30
CLIENTS = 6


WORDS = [
    "pod",
    "node",
    "claim",
    "label",
    "event",
    "volume",
    "secret",
    "probe",
    "drain",
    "quota",
    "lease",
    "route",
]
PROMPT_WORDS = 400
SHARED_WORDS = 380


@dataclass(frozen=True)
class Failure:
    """Why there was no whole answer."""

    what: str
    at_s: float  # on the monotonic clock
    refused: bool = False  # nobody took the connection: nothing was lost


class Traffic:
    """So many requests in a second, whether or not earlier ones are answered; 32 at most are."""

    def __init__(self, url: str, per_second: float) -> None:
        self._load = Load(url)
        self._pause_s = 1.0 / per_second
        self._random = random.Random(7)
        self._opening = self._words(SHARED_WORDS)
        self.shares = False  # prompts begin alike

    @property
    def answered(self) -> int:
        """Streams that were whole."""
        return self._load.answered

    @property
    def failures(self) -> list[Failure]:
        """What went wrong with the others."""
        return self._load.failures

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Ask for as long as the context lasts."""
        stop = threading.Event()
        with ThreadPoolExecutor(32) as pool:
            clock = threading.Thread(target=self._keep_time, args=(pool, stop))
            clock.start()
            try:
                yield
            finally:
                stop.set()
                clock.join()

    def _keep_time(self, pool: ThreadPoolExecutor, stop: threading.Event) -> None:
        while not stop.wait(self._pause_s):
            opening = self._opening if self.shares else self._words(SHARED_WORDS)
            rest = self._words(PROMPT_WORDS - SHARED_WORDS)
            pool.submit(self._load.ask, f"{opening} {rest}")

    def _words(self, count: int) -> str:
        return " ".join(self._random.choices(WORDS, k=count))


class Load:
    """Clients that ask one question after the other, each over a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answered = 0
        self.failures: list[Failure] = []
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Ask for as long as the context lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            self.ask(f"{PREFIX} Client {number} asks at {time.monotonic()}.")

    def ask(self, prompt: str) -> None:
        """Count one answer, whole or not."""
        problem = self.problem(prompt)
        with self._lock:
            self.answered += problem is None
            if problem is not None:
                self.failures.append(problem)

    def problem(self, prompt: str) -> Failure | None:
        """Why there was no whole answer; None: there was one."""
        try:
            what = self._lacks(prompt)
        except Exception as error:  # whatever it is, there was no answer
            refused = isinstance(error, httpx.ConnectError)
            return Failure(repr(error), time.monotonic(), refused)
        return None if what is None else Failure(what, time.monotonic())

    def _lacks(self, prompt: str) -> str | None:
        body = {"model": "chat", "prompt": prompt, "max_tokens": 40, "stream": True}
        with httpx.stream("POST", self._url, json=body, timeout=60) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code} {answer.read()!r}"
            events = [line for line in answer.iter_lines() if line]
        return None if events[-1:] == ["data: [DONE]"] else f"ended with {events[-1:]}"
