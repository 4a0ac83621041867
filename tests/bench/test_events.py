"""Events are found however the network cuts them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_bench.events import Event, EventReader, NotAnEvent

TEXTS = st.lists(st.text(max_size=20), max_size=8)


def stream(*events: dict[str, Any], end: str = "\n\n") -> bytes:
    return "".join(f"data: {json.dumps(event)}{end}" for event in events).encode()


@given(TEXTS, st.lists(st.integers(1, 40), min_size=1), st.sampled_from(["\n\n", "\r\n\r\n"]))
def test_cuts_do_not_matter(texts: list[str], cuts: list[int], end: str) -> None:
    events = ({"choices": [{"index": 0, "text": text}]} for text in texts)
    data = b": a comment\n\n" + stream(*events, end=end) + b"data: [DONE]\n\n"
    reader = EventReader()
    found: list[Event] = []
    while data:
        cut = cuts[len(found) % len(cuts)]
        found += reader.feed(data[:cut])
        data = data[cut:]
    assert [event.choices[0].text for event in found] == texts
    assert reader.done


def test_what_counts_is_read_and_the_rest_is_skipped() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0}}
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23, **details}
    choice = {"index": 0, "delta": {"content": "hi"}, "logprobs": {"content": []}}
    (event,) = EventReader().feed(stream({"id": "1", "choices": [choice], "usage": usage}))
    assert event.choices[0].has_text
    assert event.usage is not None
    assert event.usage.completion_tokens == 3
    assert event.usage.prompt_tokens_details is not None
    assert event.usage.prompt_tokens_details.cached_tokens == 16


def test_the_opening_of_a_chat_has_no_text() -> None:
    opening = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    (event,) = EventReader().feed(stream(opening))
    assert not event.choices[0].has_text


@pytest.mark.parametrize("line", [b"data: {", b"data: []", b'data: {"choices": 3}', b"data: \xff"])
def test_what_is_no_event_is_said(line: bytes) -> None:
    with pytest.raises(NotAnEvent, match="no chunk of OpenAI's"):
        EventReader().feed(line + b"\n\n")
