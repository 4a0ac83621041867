"""An OpenAI endpoint under load: one request in, one Answer with its times out. Never a retry."""

import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from aweigh_bench.events import Event, EventReader, NotAnEvent, Usage
from aweigh_bench.failures import BenchFailure, Unreachable
from aweigh_bench.measures import Answer
from aweigh_bench.traffic import Query, Words

Route = Literal["chat", "completions"]
PATHS: dict[Route, str] = {"chat": "/chat/completions", "completions": "/completions"}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
CONNECT_S = 10.0
PROBE_WORDS = 200

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Asking:
    """What all requests of a run have in common."""

    route: Route = "completions"
    model: str = ""
    temperature: float = 0.0
    ignore_eos: bool = False
    seed: int | None = None
    continuous_usage: bool = True  # the server counts tokens in every event
    stream: bool = True

    def body(self, query: Query) -> bytes:
        """The request as JSON."""
        options: dict[str, bool] = {"include_usage": True}
        if self.continuous_usage:
            options["continuous_usage_stats"] = True
        fields: dict[str, Any] = {
            "model": self.model,
            "max_tokens": query.max_tokens,
            "temperature": self.temperature,
        }
        if self.stream:
            fields |= {"stream": True, "stream_options": options}
        if self.ignore_eos:
            fields["ignore_eos"] = True
        if self.seed is not None:
            fields["seed"] = self.seed
        if self.route == "chat":
            fields["messages"] = [{"role": "user", "content": query.prompt}]
        else:
            fields["prompt"] = query.prompt
        return _encode(fields)


class Endpoint:
    """Connections to one endpoint; use as an asynchronous context."""

    def __init__(self, base_url: str, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        self.url = base_url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_S)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            headers=self._headers,
            timeout=timeout,
            trust_env=urlsplit(self.url).hostname not in LOOPBACK,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def first_model(self, wanted: str | None = None) -> tuple[str, int | None]:
        """A model's name and the most tokens it takes, where the endpoint says so.

        Raises:
            Unreachable: nobody answers, or not as an OpenAI API does.
        """
        try:
            async with self._session.get(f"{self.url}/models") as response:
                text = await response.text()
                if response.status != 200:
                    raise Unreachable(
                        f"{self.url}/models answered {response.status}: {_message(text)}"
                    )
            cards = msgspec.json.decode(text)["data"]
            named = [card for card in cards if wanted in (None, card["id"])]
            if not named and wanted is not None:
                return wanted, None
            return named[0]["id"], named[0].get("max_model_len")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(
                f"cannot reach {self.url}: {_cause(error)}. Start a server with `aweigh serve "
                "builtin://helmsman-8m`, or give another --base-url"
            ) from error
        except (msgspec.MsgspecError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise Unreachable(
                f"{self.url}/models did not answer as an OpenAI API does; expected the base URL "
                "of one, which usually ends in /v1"
            ) from error

    async def prepared(self, asking: Asking, ids: list[int]) -> tuple[Asking, Words]:
        """What this endpoint understands, found out with one request or two.

        Raises:
            BenchFailure: it refuses plain requests.
        """
        words = Words()
        text = words.text(ids[:PROBE_WORDS])
        prompt: str | list[int] = text if asking.route == "chat" else ids[:PROBE_WORDS]
        answer = await self._probe(asking, prompt)
        if answer.error is not None and asking.continuous_usage:
            asking = replace(asking, continuous_usage=False)
            answer = await self._probe(asking, prompt)
        if answer.error is not None:
            raise BenchFailure(f"{self.url} refuses a first request: {answer.error}")
        if asking.route == "completions":
            answer = await self._probe(asking, text)
        tokens = answer.prompt_tokens / len(ids[:PROBE_WORDS])
        return asking, Words(max(tokens, 1e-3) if answer.error is None else 1.0)

    async def _probe(self, asking: Asking, prompt: str | list[int]) -> Answer:
        return await self.ask(asking.route, asking.body(Query(prompt, 2)))

    async def ask(self, route: Route, body: bytes) -> Answer:
        """Send one request and read its answer to the end; what fails is the answer's error."""
        answer = Answer(sent_s=time.perf_counter())
        try:
            async with self._session.post(self.url + PATHS[route], data=body) as response:
                if response.status == 200:
                    await _read(response, answer)
                else:
                    text = await response.text(errors="replace")
                    answer.error = f"status {response.status}: {_message(text)}"
        except (aiohttp.ClientError, TimeoutError, OSError, NotAnEvent) as error:
            answer.error = _cause(error)
        answer.ended_s = time.perf_counter()
        if answer.error is None and not answer.arrivals_s:
            answer.error = "the answer ended without a token"
        return answer

    async def text(self, asking: Asking, query: Query) -> str:
        """The whole text of one answer.

        Raises:
            BenchFailure: there is none.
        """
        body = replace(asking, stream=False).body(query)
        try:
            async with self._session.post(self.url + PATHS[asking.route], data=body) as response:
                answered = await response.text(errors="replace")
            choice = msgspec.json.decode(answered)["choices"][0]
            return str(choice["message"]["content"] if asking.route == "chat" else choice["text"])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BenchFailure(f"{self.url} gave no answer: {_cause(error)}") from error
        except (msgspec.MsgspecError, KeyError, TypeError, IndexError) as error:
            raise BenchFailure(f"{self.url} gave no answer: {_message(answered)}") from error


async def _read(response: aiohttp.ClientResponse, answer: Answer) -> None:
    events = EventReader()
    async for data in response.content.iter_any():
        now_s = time.perf_counter()
        for event in events.feed(data):
            _take(event, answer, now_s)
    if not events.done and answer.error is None:
        answer.error = "the answer ended without [DONE]"


def _take(event: Event, answer: Answer, now_s: float) -> None:
    """The server's count of tokens where it gives one, else one token for each event with text."""
    if event.error is not None:
        answer.error = f"the server gave up: {_message(bytes(event.error).decode())}"
    usage = event.usage
    if event.choices:
        total = usage.completion_tokens if usage is not None else answer.output_tokens
        if usage is None and any(choice.has_text for choice in event.choices):
            total += 1
        if total > answer.output_tokens:
            answer.output_tokens = total
            answer.arrivals_s.append(now_s)
    if usage is not None:
        _total(usage, answer)


def _total(usage: Usage, answer: Answer) -> None:
    answer.prompt_tokens = usage.prompt_tokens
    answer.output_tokens = usage.completion_tokens
    if usage.prompt_tokens_details is not None:
        answer.cached_tokens = usage.prompt_tokens_details.cached_tokens


def _message(text: str) -> str:
    """The server's own words, out of OpenAI's error body where it is one."""
    try:
        body = msgspec.json.decode(text)
        return str(body.get("error", body)["message"])
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return " ".join(text.split())[:300] or "no reason given"


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
