"""What all requests share: the engine, the texts, the phase of this server, and its seats."""

import asyncio
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from aweigh_api import metrics
from aweigh_api.routing import Room
from aweigh_api.state import KvTokens, Phase, ServedModel, Speculation, State, StepFit
from aweigh_runtime.config import Config
from aweigh_runtime.engine import messages
from aweigh_runtime.engine.client import EngineClient
from aweigh_runtime.engine.messages import Ready
from aweigh_runtime.server import errors
from aweigh_runtime.server.figures import Figures
from aweigh_runtime.server.revision import revision
from aweigh_runtime.server.seats import Seats
from aweigh_runtime.server.waiting_prompts import WaitingPrompts
from aweigh_runtime.text.defaults import Defaults, read_defaults
from aweigh_runtime.text.grammar import Grammars
from aweigh_runtime.text.template import ChatTemplate, find_template
from aweigh_runtime.text.tokenizer import Tokenizer
from aweigh_runtime.text.tools.formats import Format, choose


@dataclass(frozen=True, slots=True)
class Model:
    """The model once it is loaded, as the API process needs it."""

    name: str
    limits: Ready
    tokenizer: Tokenizer
    template: ChatTemplate | None
    call_format: Format  # how it writes tool calls
    defaults: Defaults
    grammars: Grammars
    created_s: int


class Service:
    """One server. The phase goes from loading over ready to draining, never back."""

    def __init__(self, config: Config, engine: EngineClient) -> None:
        self.config = config
        self.engine = engine
        self.figures = Figures()
        self.boot_id = secrets.token_hex(8)
        self.changed = asyncio.Event()  # set for a moment whenever `report` may say something else
        self.ended = False  # nothing is to be reported any more
        self._phase: Phase = "loading"
        self.refusing = False  # draining, and clients have had time to notice
        self.failure: str | None = None  # why the engine is gone
        self.seats = Seats(config, engine, self.figures, self._tell)
        self.waiting_prompts = WaitingPrompts()
        self._opened = AsyncExitStack()
        self._model: Model | None = None
        self._revision: str | None = None  # of the model, once it is known
        self._started_s = time.monotonic()
        self._reported = self._news()
        engine.on_step = self._observe_step

    def _observe_step(self, duration_s: float, num_tokens: int) -> None:
        self.figures.observe(metrics.STEP_DURATION, duration_s)
        self.figures.observe(metrics.STEP_TOKENS, num_tokens)
        self._tell()

    @property
    def phase(self) -> Phase:
        """What this server is about."""
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._phase = phase
        self._tell()

    def room_for(self, router: str) -> int:
        """Answers of this router that could begin at once; none while the server is not ready."""
        usable = self._phase == "ready" and self.trouble() is None
        return self.seats.room_for(router) if usable else 0

    def report(self, router: str = "") -> Room:
        """What the router of this name reads; without one, what they all do."""
        return Room(
            boot_id=self.boot_id,
            phase=self._phase,
            room=self.room_for(router),
            running=self.engine.stepped.running,
            yours=self.seats.held_for(router) if router else None,
            revision=self._revision,
            model=self.config.model_name,
        )

    def end(self) -> None:
        """Let those go who read reports."""
        self.ended = True
        self._pulse()

    def _tell(self) -> None:
        """Wake who reads reports if there is news."""
        news = self._news()
        if news != self._reported:
            self._reported = news
            self._pulse()

    def _news(self) -> tuple[Room, int, str | None]:
        """All that a report depends on, whichever router reads it."""
        return self.report(), self.seats.num_taken, self.seats.kept_for

    def _pulse(self) -> None:
        self.changed.set()
        self.changed.clear()

    async def load(self) -> None:
        """Read the texts while the engine reads the weights; then take requests.

        Raises:
            StartFailure: a text of the model is missing or broken.
        """
        # Shielded: who gives up waiting must not take from the engine's reader what it sets.
        directory = await asyncio.shield(self.engine.directory)
        self._revision = await asyncio.to_thread(revision, self.config, directory)
        tokenizer = Tokenizer.load(directory)
        self._opened.callback(tokenizer.close)
        template = find_template(directory)
        if template is not None:
            self._opened.push_async_callback(template.close)
            await template.compile()
        defaults = read_defaults(directory, tokenizer)
        limits = await asyncio.shield(self.engine.ready)
        grammars = Grammars(
            directory / "tokenizer.json", limits.vocab_size, sorted(defaults.stop_tokens)
        )
        self._opened.push_async_callback(grammars.close)
        self._model = Model(
            self.config.model_name,
            limits,
            tokenizer,
            template,
            choose(
                self.config.tool_call_parser,
                "" if template is None else template.source,
                tokenizer.specials.texts,
            ),
            defaults,
            grammars,
            int(time.time()),
        )
        if self.phase == "loading":
            self.phase = "ready"

    async def close(self) -> None:
        """End the thread and the process that turn texts into tokens."""
        await self._opened.aclose()

    def expect_open(self) -> None:
        """For a request that has come now.

        Raises:
            ApiError: the server is loading, draining or broken.
        """
        self.model()
        if self.refusing:
            raise errors.draining()

    def model(self) -> Model:
        """The model, for a request that was let in.

        Raises:
            ApiError: the server is loading or broken.
        """
        if self.trouble() is not None:
            raise errors.engine_down()
        if self._model is None:
            raise errors.draining() if self.refusing else errors.loading()
        return self._model

    def trouble(self) -> str | None:
        """Why the engine does not work; None when it does, or still loads."""
        if self.failure is not None:
            return self.failure
        now_s = time.monotonic()
        if self.engine.heartbeat.late(now_s):
            silent_s = self.engine.heartbeat.silent_s(now_s)
            limit_s = self.engine.heartbeat.limit_s
            return (
                f"the engine has been silent for {silent_s:.0f} s; expected {limit_s:.0f} at most"
            )
        return None

    def state(self) -> State:
        """The report that the operator reads."""
        stepped, figures, model = self.engine.stepped, self.figures, self._model
        counters = stepped.counters
        return State(
            boot_id=self.boot_id,
            uptime_s=round(time.monotonic() - self._started_s, 3),
            phase=self.phase,
            loading=self.engine.loading if self.phase == "loading" else None,
            model=None if model is None else _served(model),
            running=stepped.running,
            waiting=stepped.waiting,
            waiting_prompt_tokens=stepped.waiting_prompt_tokens,
            arrived_requests=figures.arrived_requests,
            arrived_prompt_tokens=figures.arrived_prompt_tokens,
            finished_requests=figures.finished_requests,
            finished_output_tokens=figures.finished_output_tokens,
            cached_prompt_tokens=counters.cached_prompt_tokens,
            computed_prompt_tokens=counters.computed_prompt_tokens,
            generated_tokens=counters.generated_tokens,
            decode_tokens=counters.decode_tokens,
            decoded_rows=counters.decoded_rows,
            drafted_tokens=counters.drafted_tokens,
            accepted_tokens=counters.accepted_tokens,
            kv_tokens_read=counters.kv_tokens_read,
            saved_prefill_seconds=round(counters.saved_prefill_seconds, 3),
            max_running=None if model is None else model.limits.max_running,
            kv_tokens=_used(stepped.kv) if stepped.kv.capacity else None,  # 0: not reported yet
            unshared_tokens_per_request=stepped.unshared_tokens_per_request,
            prefix_cache_bytes=None if model is None else model.limits.prefix_cache_bytes,
            step_fit=None if stepped.step_fit is None else _fit(stepped.step_fit),
            speculation=None if stepped.speculation is None else _told(stepped.speculation),
        )


def _served(model: Model) -> ServedModel:
    return ServedModel(
        name=model.name,
        max_model_len=model.limits.max_model_len,
        dtype=model.limits.dtype,
        quantization=model.limits.quantization,
        kv_cache_dtype=model.limits.kv_cache_dtype,
    )


def _used(kv: messages.KvTokens) -> KvTokens:
    return KvTokens(capacity=kv.capacity, held=kv.held, cached=kv.cached, hot=kv.hot)


def _fit(fit: messages.StepFit) -> StepFit:
    return StepFit(
        base=_short(fit.base),
        prompt_token=_short(fit.prompt_token),
        row=_short(fit.row),
        kv_token=_short(fit.kv_token),
        drafted_token=_short(fit.drafted_token),
        samples=fit.samples,
        error=_short(fit.error),
    )


def _short(figure: float) -> float:
    """Six digits: more would only fill the report."""
    return float(f"{figure:.6g}")


def _told(speculation: messages.Speculation) -> Speculation:
    return Speculation(
        state=speculation.state,
        reason=speculation.reason,
        message=speculation.message or None,
    )
