"""Clients that ask without a pause, and count every answer that is not whole."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

PREFIX = "A Deployment keeps a number of pods of one template running. " * 30
CLIENTS = 6


class Load:
    """Clients that ask one question after the other, each over a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answered = 0
        self.failures: list[str] = []
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
            prompt = f"{PREFIX} Client {number} asks at {time.monotonic()}."
            problem = self.problem(prompt)
            with self._lock:
                self.answered += problem is None
                if problem is not None:
                    self.failures.append(problem)

    def problem(self, prompt: str) -> str | None:
        """Why there was no whole answer; None: there was one."""
        body = {"model": "chat", "prompt": prompt, "max_tokens": 40, "stream": True}
        try:
            with httpx.stream("POST", self._url, json=body, timeout=60) as answer:
                if answer.status_code != 200:
                    return f"{answer.status_code} {answer.read()!r}"
                events = [line for line in answer.iter_lines() if line]
        except httpx.TransportError as error:
            return repr(error)
        return None if events[-1:] == ["data: [DONE]"] else f"ended with {events[-1:]}"
