"""What is kept of a stream: enough to go on with it, whatever the cuts."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aweigh_api.routing import RESUME_FIELD, Resume
from aweigh_router.events import Events, Progress, Transcript
from tests.router.pod import text, token


def event(index: int, piece: str, finish: str | None = None) -> bytes:
    choice = {"index": index, "text": piece, "finish_reason": finish}
    body = {"id": 'c-"1"', "created": 7, "choices": [choice]}
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode()


def stream(n: int, num_tokens: int) -> list[bytes]:
    """The blocks of a pod's stream: each comment stands before its event."""
    blocks = []
    for place in range(num_tokens):
        for index in range(n):
            each = token("p", index, place)
            blocks.append(f": tokens {index} {each}\n".encode() + event(index, f"{each} "))
    blocks += [event(index, 'finish_reason":"stop', "stop") for index in range(n)]
    return [*blocks, b"data: [DONE]\n\n"]


@given(st.integers(1, 3), st.integers(0, 4), st.lists(st.integers(0, 4000), max_size=8))
def test_cuts_between_bytes_change_nothing(n: int, num_tokens: int, cuts: list[int]) -> None:
    blocks = stream(n, num_tokens)
    whole = b"".join(blocks)
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    transcript = Transcript(answers=[Progress() for _ in range(n)])
    events = Events(transcript)
    passed = b"".join(events.feed(whole[one:other]) for one, other in pairwise(places))
    assert passed == b"".join(block[block.index(b"data: ") :] for block in blocks)
    assert transcript.complete
    assert events.take_count() == n * num_tokens


@given(st.integers(1, 3), st.integers(1, 4), st.data())
def test_what_is_resumed_is_what_the_client_has(
    n: int, num_tokens: int, data: st.DataObject
) -> None:
    whole = b"".join(stream(n, num_tokens))
    cut = data.draw(st.integers(0, len(whole) - 1))
    transcript = Transcript(answers=[Progress() for _ in range(n)])
    passed = Events(transcript).feed(whole[:cut])
    texts, finished = dict.fromkeys(range(n), ""), set()
    for line in passed.split(b"\n\n"):
        if line.startswith(b"data: {"):
            choice = json.loads(line.removeprefix(b"data: "))["choices"][0]
            if choice["finish_reason"]:
                finished.add(choice["index"])
            else:
                texts[choice["index"]] += choice["text"]
    if not transcript.begun:
        assert not passed
        return
    body = json.loads(transcript.resume(b'{"stream": true, "prompt": "}"} \n'))
    resume = Resume.model_validate(body[RESUME_FIELD])
    assert (body["prompt"], resume.id, resume.created) == ("}", 'c-"1"', 7)
    for index, answer in enumerate(resume.answers):
        assert text("p", index, len(answer.tokens)) == texts[index]
        assert answer.finished == (index in finished)


def test_a_comment_without_its_event_does_not_count() -> None:
    transcript = Transcript(answers=[Progress()])
    events = Events(transcript)
    assert events.feed(b": tokens 0 1\n" + event(0, "a") + b": tokens 0 2\n\n") == event(0, "a")
    assert transcript.answers[0].tokens == b"1"
    assert events.feed(event(0, "b")) == event(0, "b")
    assert transcript.answers[0].tokens == b"1,2"


def test_an_error_of_the_pod_is_not_for_the_client_and_one_of_the_request_is() -> None:
    ends = b'data: {"error":{"message":"bye","code":"draining"}}\n\n'
    transcript = Transcript(answers=[Progress()])
    events = Events(transcript)
    assert events.feed(event(0, "a") + ends) == event(0, "a")
    assert (events.broken, transcript.complete) == ("draining", False)
    bad = b'data: {"error":{"message":"the grammar cannot be kept to","code":"grammar"}}\n\n'
    transcript = Transcript(answers=[Progress()])
    assert Events(transcript).feed(bad) == bad
    assert transcript.complete
