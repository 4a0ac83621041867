"""An S3 store on a local address, for tests: signatures are checked, listings come in pages."""

import hashlib
import hmac
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

from tests.runtime.local_server import LocalServer

KEY_ID, KEY = "AKIASEA", "open/sesame"
PAGE = 2  # keys in an answer; a real store sends up to 1000
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/]+)/(?P<scope>[^,]+), "
    r"SignedHeaders=(?P<headers>[^,]+), Signature=(?P<signature>[0-9a-f]{64})"
)


class ObjectStore(LocalServer):
    """Buckets: a public one may be read without keys, others need KEY_ID and KEY."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, dict[str, bytes]] = {}
        self.public: set[str] = set()
        self.session_token: str | None = None  # what requests with keys must also carry

    def add(self, bucket: str, prefix: str, directory: Path, *, public: bool = False) -> None:
        """Offer a directory as BUCKET/PREFIX."""
        self.objects.setdefault(bucket, {}).update(
            (f"{prefix}/{path.relative_to(directory).as_posix()}", path.read_bytes())
            for path in directory.rglob("*")
            if path.is_file()
        )
        if public:
            self.public.add(bucket)

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/{bucket}", self._list)
        app.router.add_get("/{bucket}/{key:.+}", self._get)

    def refusal(self, status: int) -> web.Response:
        return _error(status, "OutOfOrder", "out of order")

    async def _list(self, request: web.Request) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        prefix = request.query["prefix"]
        assert request.query["list-type"] == "2"
        assert request.query["delimiter"] == "/"
        objects = self.objects[request.match_info["bucket"]]
        entries: dict[str, str] = {}
        for key in sorted(objects):
            if key.startswith(prefix):
                rest, slash, _ = key.removeprefix(prefix).partition("/")
                entries[prefix + rest + slash] = _entry(prefix + rest + slash, objects.get(key))
        begin = int(request.query.get("continuation-token", 0))
        more = begin + PAGE < len(entries)
        token = f"<NextContinuationToken>{begin + PAGE}</NextContinuationToken>" if more else ""
        body = "".join(list(entries.values())[begin : begin + PAGE])
        return web.Response(
            text=f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{body}"
            "</ListBucketResult>",
            content_type="application/xml",
        )

    async def _get(self, request: web.Request) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        key = request.match_info["key"]
        content = self.objects[request.match_info["bucket"]].get(key)
        if content is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        if request.headers.get("If-Match", _etag(content)) != _etag(content):
            return _error(412, "PreconditionFailed", "it changed")
        return await self.send(request, key.rpartition("/")[2], content, _etag(content))

    def _refused(self, request: web.Request) -> web.Response | None:
        bucket = request.match_info["bucket"]
        if bucket not in self.objects:
            return _error(404, "NoSuchBucket", "The specified bucket does not exist")
        match = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
        if match is None:
            return None if bucket in self.public else _error(403, "AccessDenied", "Access Denied")
        if match["id"] != KEY_ID:
            return _error(403, "InvalidAccessKeyId", "The key does not exist in our records.")
        if self.session_token not in (None, request.headers.get("x-amz-security-token")):
            return _error(400, "ExpiredToken", "The provided token has expired.")
        if match["signature"] != _signature(request, match["scope"], match["headers"]):
            return _error(403, "SignatureDoesNotMatch", "The signature does not match.")
        return None


def _signature(request: web.Request, scope: str, signed: str) -> str:
    """AWS's signature, version 4, as its documentation computes it."""
    query = sorted(
        (quote(key, safe="-_.~"), quote(value, safe="-_.~")) for key, value in request.query.items()
    )
    canonical = "\n".join(
        [
            request.method,
            quote(request.path, safe="/-_.~"),
            "&".join(f"{key}={value}" for key, value in query),
            *(f"{name}:{request.headers[name].strip()}" for name in signed.split(";")),
            "",
            signed,
            request.headers["x-amz-content-sha256"],
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{digest}"
    key = f"AWS4{KEY}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _entry(key: str, content: bytes | None) -> str:
    if key.endswith("/") or content is None:
        return f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-05T10:00:00.000Z</LastModified>"
        f"<ETag>{escape(_etag(content))}</ETag><Size>{len(content)}</Size></Contents>"
    )


@lru_cache
def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _error(status: int, code: str, message: str) -> web.Response:
    return web.Response(
        status=status,
        text=f"<Error><Code>{code}</Code><Message>{message}</Message></Error>",
        content_type="application/xml",
    )
