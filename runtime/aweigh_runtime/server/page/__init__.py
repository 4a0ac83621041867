"""The page at `/`: a conversation with the model. Static; it asks this server and nobody else."""

from importlib import resources

from aiohttp import web

_KINDS = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TEXTS = {name: resources.files(__name__).joinpath(name).read_bytes() for name in _KINDS}


def page(name: str) -> web.Response:
    """One of its files."""
    return web.Response(
        body=_TEXTS[name],
        content_type=_KINDS[name],
        charset="utf-8",
        headers={
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        },
    )
