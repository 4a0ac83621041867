"""Streams that another server has begun and a router lets this one go on with."""

from collections.abc import Sequence

import msgspec
from aiohttp import web
from pydantic import ValidationError

from aweigh_api.routing import RESUME_FIELD, Resume
from aweigh_http.bodies import BODY
from aweigh_http.errors import ApiError
from aweigh_runtime.server.auth import ROUTED
from aweigh_runtime.server.errors import invalid
from aweigh_runtime.server.openai.requests import CompletionRequest, Parameters


class _OneField(msgspec.Struct, frozen=True, rename={"resume": RESUME_FIELD}):
    resume: msgspec.Raw = msgspec.Raw(b"null")


def resume_of(request: web.Request, asked: Parameters) -> Resume | None:
    """What is to go on; None: nothing, or a client asks, for whom there is no such field.

    Raises:
        ApiError: it is no stream that could go on.
    """
    if not request[ROUTED]:
        return None
    given = bytes(msgspec.json.decode(request[BODY].content, type=_OneField).resume)
    if given == b"null":
        return None
    try:
        resume = Resume.model_validate_json(given)
    except ValidationError as error:
        found = error.errors()[0]
        place = "".join(
            f"[{step}]" if isinstance(step, int) else f".{step}" for step in found["loc"]
        )
        raise _refused(f"'{RESUME_FIELD}{place}' is not valid: {found['msg']}.") from error
    if not asked.stream:
        raise _refused(f"'{RESUME_FIELD}' needs 'stream': true.")
    if isinstance(asked, CompletionRequest) and asked.echo:
        raise _refused(f"'{RESUME_FIELD}' cannot go on with an 'echo'; send the request anew.")
    return resume


def begun(
    resume: Resume | None, limits: Sequence[int], stop_tokens: Sequence[int]
) -> list[list[int]]:
    """The tokens that each answer has already.

    Args:
        resume: None: no answer has any.
        limits: tokens that each may have.
        stop_tokens: any of them ends an answer.

    Raises:
        ApiError: there are others than were asked for.
    """
    if resume is None:
        return [[] for _ in limits]
    if len(resume.answers) != len(limits):
        raise _refused(
            f"'{RESUME_FIELD}.answers' has {len(resume.answers)} items; expected {len(limits)}: "
            "one for each choice of each prompt."
        )
    for index, (answer, limit) in enumerate(zip(resume.answers, limits, strict=True)):
        where = place_of(index)
        if len(answer.tokens) > limit:
            raise _refused(
                f"'{where}' has {len(answer.tokens)} tokens; expected at most the {limit} that the "
                "answer may have."
            )
        if not set(stop_tokens).isdisjoint(answer.tokens[:-1]):
            raise beyond_the_end(index)
    return [list(answer.tokens) for answer in resume.answers]


def place_of(index: int) -> str:
    """The name of an answer's tokens."""
    return f"{RESUME_FIELD}.answers[{index}].tokens"


def beyond_the_end(index: int) -> ApiError:
    """What has ended cannot go on."""
    return _refused(f"'{place_of(index)}' goes on after the answer's end; expected none there.")


def _refused(message: str) -> ApiError:
    return invalid(message, RESUME_FIELD)
