"""Requests to an object store: what it answers becomes a value or a failure with a sentence."""

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Self

import obstore
from obstore.exceptions import BaseError, InvalidPathError, PreconditionError
from obstore.store import S3Store

from aweigh_runtime.failures import (
    AccessDenied,
    ModelNotFound,
    ModelUnreadable,
    SourceUnreachable,
    StartFailure,
)
from aweigh_runtime.sources.listing import Listing, RemoteFile, needed
from aweigh_runtime.sources.patience import THOROUGH, Effort, Patience, Transient
from aweigh_runtime.sources.s3_access import KEY, KEY_ID, REGION, Access
from aweigh_runtime.sources.transfer import Content

PIECE_BYTES = 8 << 20
PIECES_AHEAD = 4  # of each file; one connection rarely fills the line
_TRANSIENT = (408, 425, 429)
_DENIED = ("ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch")


class Bucket:
    """One prefix of one bucket. Threads may share it."""

    def __init__(self, name: str, prefix: str, access: Access, effort: Effort = THOROUGH) -> None:
        self.uri = f"s3://{name}/{prefix}"
        self.patience = Patience(
            self.uri, access.place, "check the network, AWS_ENDPOINT_URL and the proxy", effort
        )
        self._prefix = prefix
        self._access = access
        self._pool = ThreadPoolExecutor(4 * PIECES_AHEAD)
        credential = access.credential
        self._store = S3Store(
            name,
            config=access.config,
            client_options={
                "allow_http": access.plain,
                "connect_timeout": timedelta(seconds=effort.timeout_s),
                "read_timeout": timedelta(seconds=effort.timeout_s),
                "timeout": timedelta(days=1),  # of a whole request; the two above are what counts
                "user_agent": "aweigh",
            },
            retry_config={"max_retries": 0},  # Patience retries, from where the file broke off
            credential_provider=None if credential is None else lambda: credential,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.patience.stop()
        self._pool.shutdown(cancel_futures=True)

    def listing(self) -> Listing:
        """What is under the prefix now; its version is made of all names, sizes and ETags."""
        return self.patience.repeat(self._listing)

    @contextmanager
    def content(self, file: RemoteFile, offset: int) -> Iterator[Content]:
        """A file's bytes from `offset` on."""
        ahead: deque[Future[bytes]] = deque()
        try:
            yield Content(offset, self._pieces(file, offset, ahead))
        finally:
            for piece in ahead:
                piece.cancel()

    def _pieces(
        self, file: RemoteFile, offset: int, ahead: "deque[Future[bytes]]"
    ) -> Iterator[bytes]:
        """In order, while the next ones are under way."""
        for start in range(offset, file.size, PIECE_BYTES):
            ahead.append(self._pool.submit(self._piece, file, start))
            if len(ahead) == PIECES_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _piece(self, file: RemoteFile, start: int) -> bytes:
        """Some bytes of the very object that was listed."""
        end = min(start + PIECE_BYTES, file.size)
        etag = file.digest.removeprefix("etag:")
        try:
            answer = obstore.get(
                self._store,
                f"{self._prefix}/{file.name}",
                options={"range": (start, end), "if_match": etag or None},
            )
            piece = bytes(answer.bytes())
        except (BaseError, FileNotFoundError) as error:
            raise self._failure(error) from error
        if len(piece) != end - start:
            raise Transient(f"{file.name}: {len(piece)} bytes came for {start} to {end}")
        return piece

    def _listing(self) -> Listing:
        try:
            found = obstore.list_with_delimiter(self._store, self._prefix)
        except (BaseError, FileNotFoundError) as error:
            raise self._failure(error) from error
        files = [
            RemoteFile(
                entry["path"].rpartition("/")[2], entry["size"], f"etag:{entry['e_tag'] or ''}"
            )
            for entry in found["objects"]
        ]
        if not files:
            raise ModelNotFound(
                f"there is nothing at {self.uri} in {self._access.place}; check its URI"
            )
        wanted = needed(self.uri, [file.name for file in files])
        return _versioned([file for file in files if file.name in wanted])

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, InvalidPathError):
            return ModelUnreadable(
                f"{self.uri} holds a key that is no file path ({_first_line(error)}); remove it"
            )
        if isinstance(error, PreconditionError):
            return SourceUnreachable(
                f"{self.uri} was changed while it was downloaded; start again when it is complete"
            )
        status = _found(r"status code: (\d{3})", error)
        if not status or int(status) in _TRANSIENT or int(status) >= 500:
            return Transient(f"it answered {status}" if status else _cause(error))
        return self._refusal(status, error)

    def _refusal(self, status: str, error: Exception) -> StartFailure:
        code, message = _found(r"<Code>([^<]*)", error), _found(r"<Message>([^<]*)", error)
        answer = " ".join(part for part in (status, code, message and f"({message})") if part)
        if status in ("401", "403") or code in _DENIED:
            return AccessDenied(
                f"{self._access.who} may not read {self.uri} ({self._access.place} answered "
                f"{answer}); give {KEY_ID} and {KEY} that may list and get with "
                "model.secretRef (in a cluster) or the environment"
            )
        if code == "NoSuchBucket":
            return ModelNotFound(
                f"there is no bucket of {self.uri} in {self._access.place}; check its URI"
            )
        if status == "404":
            return ModelNotFound(
                f"{self.uri} is not at {self._access.place}, or lost a file just now (it answered "
                f"{answer}); check its URI and AWS_ENDPOINT_URL"
            )
        return SourceUnreachable(
            f"{self._access.place} answered {answer} when asked for {self.uri}; check {REGION} and "
            "AWS_ENDPOINT_URL"
        )


def _versioned(files: Sequence[RemoteFile]) -> Listing:
    facts = sorted((file.name, file.size, file.digest) for file in files)
    return Listing(hashlib.sha256(json.dumps(facts).encode()).hexdigest(), tuple(files))


def _cause(error: Exception) -> str:
    """The innermost reason in a long story."""
    return _found(r'(?:message|error): "([^"]*)"', error) or _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _found(pattern: str, error: Exception) -> str:
    match = re.search(pattern, str(error))
    return match[1][:300] if match else ""
