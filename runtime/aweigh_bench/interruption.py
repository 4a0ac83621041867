"""An interrupted measurement ends soon, and what it has found by then is told."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Set by the first SIGINT; a second one ends the process as usual."""
    enough, loop = threading.Event(), asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield enough  # signals are not for this one
        return

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        enough.set()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield enough
    finally:
        loop.remove_signal_handler(signal.SIGINT)
