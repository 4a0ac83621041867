"""Every error that the router itself tells a client, in OpenAI's form."""

from aweigh_http.errors import ApiError


def line_full(message: str, retry_after_s: float) -> ApiError:
    """Too many requests wait."""
    return ApiError(
        429,
        f"{message} Try again shortly.",
        code="overloaded",
        headers={"Retry-After": str(max(1, min(60, round(retry_after_s))))},
    )


def no_pods(reason: str | None) -> ApiError:
    """There is none, or none serves; `reason` is that of the InferenceService."""
    return ApiError(
        503,
        f"No pod serves this model. Its InferenceService is not ready: {reason}."
        if reason
        else "No pod serves this model yet; try again later.",
        code="no_pods",
        headers={"Retry-After": "5"},
    )


def deleted() -> ApiError:
    """There is no pod, and none will come."""
    return ApiError(
        503,
        "No pod serves this model any more: its InferenceService has been deleted.",
        code="no_pods",
    )


def waited_too_long(seconds: float) -> ApiError:
    """No pod had room in time, or none could be reached."""
    return ApiError(
        503,
        f"No pod took this request within {seconds:g} s; try again later.",
        code="overloaded",
        headers={"Retry-After": "5"},
    )


def too_late(seconds: float, *, streams: bool, begun: bool) -> ApiError:
    """Pods were asked, and nothing comes of it; `begun`: nothing more."""
    what = "more of this answer" if begun else "of this answer"
    remedy = "ask for less at once" if streams else "ask for less at once, or for a stream"
    return ApiError(
        504, f"Nothing {what} came from pods within {seconds:g} s; {remedy}.", code="timeout"
    )


def draining() -> ApiError:
    """The router is about to end."""
    return ApiError(
        503,
        "This router is shutting down; send the request again.",
        code="draining",
        headers={"Retry-After": "1"},
    )


def deadly(num_pods: int) -> ApiError:
    """Whoever computes this request dies."""
    return ApiError(
        500,
        f"{num_pods} pods ended while they computed this request, the last of them with nothing "
        "else to do; it is not tried again.",
        code="pods_died",
    )


def not_resumable(reason: str) -> ApiError:
    """A stream has begun, its pod is gone, and nobody can go on."""
    return ApiError(
        503,
        f"The pod that computed this answer is gone, and no other can go on with it: {reason}",
        code="not_resumable",
        headers={"Retry-After": "1"},
    )
