"""What one HTTP request asks of the engine. The engine relies on what is checked here."""

import secrets
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass

from aweigh_api.routing import Resume
from aweigh_runtime.engine import naming
from aweigh_runtime.engine.messages import Sampling, Submission
from aweigh_runtime.server.errors import invalid, too_long, too_many_bytes, too_much_text
from aweigh_runtime.server.openai.requests import Parameters
from aweigh_runtime.server.openai.resuming import begun, place_of
from aweigh_runtime.server.service import Model

_MASK = (1 << 64) - 1
MAX_PROMPT_LOGPROBS = 1 << 19  # of one request; each takes some hundred bytes here
MIN_TEXT_BYTES = 1 << 20  # a prompt may have so many, if the model can hold them
_MANY_DIGITS = 10**20
_COMMON_TOKEN_BYTES = 8  # no language has longer tokens on average
_CHOICE_STEP = 0xD1342543DE82EF95  # odd and far from splitmix64's increment


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an answer continues."""

    tokens: list[int]
    echo: Sequence[str] = ()  # what each token adds to the text, where the answer repeats it


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Prompts that are known, and what to make of them."""

    prompts: Sequence[Prompt]
    asked: Parameters
    limit: int | None  # tokens of an answer; None: what fits
    caller: bytes = b""  # admission is fair between callers
    tenant: bytes = b""  # whose cached prefixes may be used
    grammar: str | None = None
    spelled: Set[str] = frozenset()  # special tokens that are text for who reads the answer
    may_call: bool = False  # the answer may hold calls of tools
    routed: bool = False  # a router is told which tokens are out, so that others can go on
    resume: Resume | None = None  # what has been answered elsewhere

    @property
    def n(self) -> int:
        """Answers to each prompt."""
        return self.asked.n or 1

    @property
    def echoes(self) -> bool:
        """Answers begin with their prompt."""
        return any(prompt.echo for prompt in self.prompts)


def submissions(order: Order, model: Model) -> list[Submission]:
    """One for each answer; those to the same prompt stand together.

    Raises:
        ApiError: the model cannot do it.
    """
    asked = order.asked
    limits = [_limit(prompt.tokens, order, model) for prompt in order.prompts]
    seeds = iter(_seeds(asked, order.n * len(order.prompts)))
    stop_tokens = _stop_tokens(asked, model)
    prompt_logprobs = _prompt_alternatives(order)
    salt = naming.salt(order.tenant, asked.cache_salt)
    parts = begun(order.resume, [limit for limit in limits for _ in range(order.n)], stop_tokens)
    for index, part in enumerate(parts):
        expect_tokens(part, model, place_of(index))
    known = iter(parts)
    wanted = []
    for prompt, limit in zip(order.prompts, limits, strict=True):
        for index in range(order.n):
            part = next(known)
            submission = Submission(
                id=0,
                prompt=[*prompt.tokens, *part] if part else prompt.tokens,
                max_tokens=limit,
                stop_tokens=stop_tokens,
                sampling=_sampling(asked, model, next(seeds)),
                salt=salt,
                caller=order.caller,
                priority=asked.priority or 0,
                logprobs=asked.alternatives,
                prompt_logprobs=prompt_logprobs,
                grammar=order.grammar,
                choices=order.n,
                first=index == 0,
                begun=len(part),
            )
            wanted.append(submission)
    return wanted


def expect_within_reach(model: Model, text: str) -> None:
    """Refuse a prompt that is too long whatever its tokens are; encoding it would take seconds.

    Raises:
        ApiError: it is.
    """
    num_bytes, token_bytes = len(text.encode()), model.tokenizer.longest_token_bytes
    if num_bytes > model.limits.max_model_len * token_bytes:
        raise too_many_bytes(num_bytes, token_bytes, model.limits.max_model_len)
    most_bytes = max(MIN_TEXT_BYTES, model.limits.max_model_len * _COMMON_TOKEN_BYTES)
    if num_bytes > most_bytes:
        raise too_much_text(num_bytes, most_bytes)


def expect_tokens(tokens: Collection[int], model: Model, param: str) -> None:
    """Refuse ids that are none.

    Raises:
        ApiError: the vocabulary lacks one.
    """
    size = model.limits.vocab_size
    if tokens and not (min(tokens) >= 0 and max(tokens) < size):
        wrong = next(token for token in tokens if not 0 <= token < size)
        shown = wrong if abs(wrong) < _MANY_DIGITS else "a number of many digits"
        raise invalid(
            f"'{param}' has the token id {shown}; expected 0 to {size - 1}, as many as the "
            "model's vocabulary has.",
            param,
        )


def truncated(tokens: list[int], asked: Parameters, limit: int | None, model: Model) -> list[int]:
    """The end of a prompt, where only that is wanted; -1: what fits before the answer.

    Raises:
        ApiError: nothing is left of it.
    """
    keep = asked.truncate_prompt_tokens
    if keep is None:
        return tokens
    if keep == -1:
        wanted, room = 1 if limit is None else limit, model.limits.max_model_len
        if wanted >= room:
            raise invalid(
                f"'truncate_prompt_tokens' is -1, and the {wanted} tokens of the answer leave no "
                f"room for a prompt in the {room} that the model holds. Lower max_tokens.",
                "truncate_prompt_tokens",
                "context_length_exceeded",
            )
        keep = room - wanted
    return tokens[max(len(tokens) - keep, 0) :]


def _limit(prompt: list[int], order: Order, model: Model) -> int:
    """Tokens that the answer may have."""
    if not prompt:
        raise invalid("The prompt is empty; expected at least one token.", "prompt")
    room = model.limits.max_model_len - len(prompt)
    wanted = 1 if order.limit is None else order.limit
    if wanted > room:
        raise too_long(len(prompt), wanted, model.limits.max_model_len)
    expect_tokens(prompt, model, "prompt")
    limit = room if order.limit is None else order.limit
    if (order.asked.min_tokens or 0) > limit:
        raise invalid(
            f"'min_tokens' is {order.asked.min_tokens}; expected at most the {limit} tokens that "
            "the answer may have.",
            "min_tokens",
        )
    return limit


def _seeds(asked: Parameters, count: int) -> list[int]:
    """One per choice, so that choices differ and a seed gives the same ones again."""
    seed = secrets.randbits(64) if asked.seed is None else asked.seed
    return [(seed + choice * _CHOICE_STEP) & _MASK for choice in range(count)]


def _stop_tokens(asked: Parameters, model: Model) -> list[int]:
    wanted = asked.stop_token_ids or []
    expect_tokens(wanted, model, "stop_token_ids")
    return sorted({*wanted, *(() if asked.ignore_eos else model.defaults.stop_tokens)})


def _prompt_alternatives(order: Order) -> int | None:
    """An echo has log-probabilities like the answer."""
    echoed = order.asked.alternatives if order.echoes else None
    wanted = [number for number in (order.asked.prompt_logprobs, echoed) if number is not None]
    if not wanted:
        return None
    count = sum(len(prompt.tokens) for prompt in order.prompts) * order.n * (max(wanted) + 1)
    if count > MAX_PROMPT_LOGPROBS:
        raise invalid(
            f"The prompts would have {count} log-probabilities; expected {MAX_PROMPT_LOGPROBS} at "
            "most. Ask for fewer alternatives or send shorter prompts.",
            "prompt_logprobs",
        )
    return max(wanted)


def _sampling(asked: Parameters, model: Model, seed: int) -> Sampling:
    defaults = model.defaults
    bias = asked.logit_bias or {}
    expect_tokens(bias, model, "logit_bias")
    return Sampling(
        temperature=_given(asked.temperature, defaults.temperature),
        top_p=_given(asked.top_p, defaults.top_p),
        top_k=defaults.top_k if asked.top_k is None else max(asked.top_k, 0),
        min_p=_given(asked.min_p, defaults.min_p),
        seed=seed,
        seeded=asked.seed is not None,
        repetition_penalty=_given(asked.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logit_bias=bias,
        min_tokens=asked.min_tokens or 0,
    )


def _given(asked: float | None, default: float) -> float:
    return default if asked is None else asked
