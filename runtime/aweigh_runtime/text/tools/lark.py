"""Pieces of llguidance's Lark dialect, in which `%json` embeds a schema."""

import json
from collections.abc import Mapping
from typing import Any

ANY_TEXT = r"/(?s:.*)/"


class Unenforceable(ValueError):
    """A schema says something that a call in this format cannot be held to."""


def text(literal: str) -> str:
    """Exactly this text."""
    return json.dumps(literal)


def schema(value: Mapping[str, Any], *, strict: bool) -> str:
    """JSON on one line. Unless strict, what llguidance does not know of a schema is ignored."""
    options = {
        "item_separator": ", ",
        "key_separator": ": ",
        "whitespace_flexible": False,
        "lenient": not strict,
    }
    return f"%json {json.dumps({**value, 'x-guidance': options})}"
