"""A draft's source delays the start of its target little, whatever is wrong with it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.runtime.serving import serving


@contextmanager
def silent_place() -> Iterator[tuple[str, list[socket.socket]]]:
    """A URL where nobody ever answers, and who has asked there."""
    askers: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                askers.append(listener.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", askers
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for asker in askers:
                asker.close()


def test_a_place_that_never_answers_is_asked_twice_and_the_target_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_place() as (url, askers):
        monkeypatch.setenv("HF_ENDPOINT", url)
        with serving(tmp_path, "--draft-model=hf://sea/nobody") as served:
            served.wait_ready()
            assert len(askers) == 2
            assert served.chat(max_tokens=2).status_code == 200
            told = served.state().speculation
            assert told is not None
            assert (told.state, told.reason) == ("failed", "DraftUnavailable")
            assert "after 2 attempts in a row" in (told.message or "")
