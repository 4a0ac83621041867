"""Every error that a client can see, as OpenAI writes them.

No exception's own text gets out, but for words that only say what the client has sent: those of a
template that refuses a chat, and the grammar compiler's about a schema.
"""

from aweigh_api.routing import NO_ROOM
from aweigh_http.errors import ApiError, internal
from aweigh_runtime.engine.client import MAX_UNREAD
from aweigh_runtime.engine.messages import FailureKind


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request itself is wrong."""
    return ApiError(400, message, param=param, code=code)


def too_long(num_prompt: int, num_answer: int, limit: int) -> ApiError:
    """Prompt and answer exceed what the model holds."""
    return invalid(
        f"This model's maximum context length is {limit} tokens. The request has {num_prompt} "
        f"prompt tokens and asks for at least {num_answer} more. Shorten the prompt or lower "
        "max_tokens.",
        code="context_length_exceeded",
    )


def too_many_bytes(num_bytes: int, token_bytes: int, limit: int) -> ApiError:
    """The prompt exceeds what the model holds, whatever its tokens are."""
    return invalid(
        f"This model's maximum context length is {limit} tokens, and none of its tokens stands for "
        f"more than {token_bytes} bytes. The prompt has {num_bytes} bytes, more than "
        f"{limit * token_bytes}. Shorten the prompt.",
        code="context_length_exceeded",
    )


def too_much_text(num_bytes: int, limit: int) -> ApiError:
    """The prompt exceeds what is tokenized here."""
    return invalid(
        f"The prompt has {num_bytes} bytes; expected {limit} at most. Shorten the prompt.",
        code="context_length_exceeded",
    )


def loading() -> ApiError:
    """The model is not there yet."""
    return ApiError(503, "Loading model", code="loading", headers={"Retry-After": "5"})


def draining() -> ApiError:
    """The server is about to end."""
    return ApiError(
        503,
        "This server is shutting down; send the request again.",
        code="draining",
        headers={"Retry-After": "1"},
    )


def overloaded(limit: int) -> ApiError:
    """The queue is full."""
    return ApiError(
        429,
        f"This server already computes or queues {limit} answers; try again shortly.",
        code="overloaded",
        headers={"Retry-After": "1"},
    )


def too_much_waits(tokens: int, limit: int) -> ApiError:
    """The queue is short, but its prompts are long."""
    return ApiError(
        429,
        f"Prompts of {tokens} tokens wait here already, and with this one they would exceed "
        f"{limit}; try again shortly.",
        code="overloaded",
        headers={"Retry-After": "1"},
    )


def share_taken(held: int, limit: int) -> ApiError:
    """The queue is full for one API key."""
    return ApiError(
        429,
        f"This API key already has {held} of the {limit} answers that this server takes, and has "
        "to leave room for other keys; try again shortly.",
        code="overloaded",
        headers={"Retry-After": "1"},
    )


def no_room() -> ApiError:
    """The router keeps its request: nothing has been done for it."""
    return ApiError(
        429,
        "This server cannot begin so many answers at once; keep the request until it has room.",
        code=NO_ROOM,
    )


def grammars_busy() -> ApiError:
    """There was no time to check a grammar."""
    return ApiError(
        503,
        "This server is busy compiling other grammars; try again shortly.",
        code="overloaded",
        headers={"Retry-After": "5"},
    )


def worker_lost(work: str) -> ApiError:
    """A process died that would have been needed; the next request starts another one."""
    return ApiError(
        503,
        f"The process that {work} died, probably for want of memory; send the request again.",
        code="worker",
        headers={"Retry-After": "1"},
    )


def request_failed(kind: FailureKind, message: str) -> ApiError:
    """The engine cannot finish one answer. What it says of length and grammar is for the client."""
    match kind:
        case "too_long":
            return invalid(message, code="context_length_exceeded")
        case "grammar":
            return invalid(f"The wanted form cannot be kept to: {message}", code="grammar")
        case "out_of_memory":
            return ApiError(
                503,
                "This server ran out of memory for this request; send it again, or a shorter one.",
                code="out_of_memory",
                headers={"Retry-After": "1"},
            )
        case "internal":
            return internal()


def left_unread() -> ApiError:
    """A stream's client is so slow that what waits for it takes too much memory."""
    return ApiError(
        408,
        f"More than {MAX_UNREAD} tokens for each answer of this stream were left unread; read it "
        "sooner, or ask for shorter answers.",
        code="left_unread",
    )


def engine_lost() -> ApiError:
    """The engine process ended with requests open."""
    return ApiError(500, "The engine of this server failed; send the request again.", code="engine")


def engine_down() -> ApiError:
    """The engine is gone or does not speak."""
    return ApiError(503, "The engine of this server does not respond.", code="engine")
