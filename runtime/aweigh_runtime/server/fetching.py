"""Downloads models without serving them, and tells on the admin port how far that is.

It answers `/state` and the probes as a server does that loads, so whoever watches pods can watch
this one.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from aweigh_api.flags import draft_of
from aweigh_api.state import Loading, State
from aweigh_http import logs
from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.sources import fetch

Report = Callable[[Loading], None]


def fetch_all(
    models: Sequence[str],
    *,
    secret_dir: Path | None,
    cache_dir: Path,
    address: tuple[str, int] | None,
    on_progress: Report,
) -> list[Path]:
    """Bring models here, one after the other; gives their directories.

    Args:
        models: URIs, of hf:// with @REVISION where it is not main.
        secret_dir: holds what opens the sources, one file for each key of a Secret.
        cache_dir: where downloads are kept.
        address: of the admin port; None: nobody watches.
        on_progress: called while bytes arrive, with the sum over all models.

    Raises:
        StartFailure: as `sources.fetch` does, or because nobody can listen on the port.
    """
    logs.configure()
    progress = _Progress(on_progress)
    with _answering(progress, address):
        folders = []
        for model in models:
            uri, revision = draft_of(model)
            folders.append(
                fetch(
                    uri,
                    revision=revision,
                    secret_dir=secret_dir,
                    cache_dir=cache_dir,
                    progress=progress.of_one,
                )
            )
            progress.one_is_here()
        return folders


class _Progress:
    """How far it is, over all models."""

    def __init__(self, on_progress: Report) -> None:
        self._on_progress = on_progress
        self._boot_id = uuid.uuid4().hex
        self._began_s = time.monotonic()
        self._before = 0  # bytes of the models that are here
        self._loading = Loading(stage="downloading", done_bytes=0)

    def of_one(self, done_bytes: int, total_bytes: int | None) -> None:
        """Bytes of the model that is being fetched."""
        total = None if total_bytes is None else self._before + total_bytes
        self._loading = Loading(
            stage="downloading", done_bytes=self._before + done_bytes, total_bytes=total
        )
        self._on_progress(self._loading)

    def one_is_here(self) -> None:
        """Go on with the next."""
        self._before = self._loading.done_bytes

    def state(self) -> State:
        """What a watcher reads."""
        uptime_s = time.monotonic() - self._began_s
        return State(
            boot_id=self._boot_id, uptime_s=uptime_s, phase="loading", loading=self._loading
        )


@contextmanager
def _answering(progress: _Progress, address: tuple[str, int] | None) -> Iterator[None]:
    if address is None:
        yield
        return
    try:
        server = ThreadingHTTPServer(address, _handler(progress))
    except OSError as error:
        host, port = address
        raise InvalidConfiguration(
            f"--admin-port {port} on {host} cannot be listened on: {error.strerror}; give another"
        ) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="admin", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _handler(progress: _Progress) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0  # of a client that says nothing

        def do_GET(self) -> None:
            answers = {
                "/livez": (200, "text/plain", "ok\n"),
                "/readyz": (503, "text/plain", "loading\n"),
                "/state": (200, "application/json", progress.state().to_json()),
            }
            status, kind, text = answers.get(self.path, (404, "text/plain", "not found\n"))
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are no news."""

    return Handler
