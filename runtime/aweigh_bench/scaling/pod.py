"""One serving pod as a model: steps whose time is a sum, an LRU of prefixes, a queue.

Steps that read no prompt differ only by what they read of the cache, so that as many of them as
nothing changes in are computed at once: a trace of 40 minutes takes a second.
"""

import heapq
import math
import random
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from aweigh_api.state import KvTokens, Speculation, State, StepFit
from aweigh_bench.scaling.traces import Request

HOT_S = 300.0  # in which a prefix must be looked up twice to count as hot


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a pod can do: by default about Llama-3.1-8B on an H200."""

    base_s: float = 4.0e-3
    prompt_token_s: float = 2.7e-5
    row_s: float = 2.0e-5
    kv_token_s: float = 3.0e-8
    kv_tokens: int = 700_000
    step_tokens: int = 2048  # of prompts
    rows: int = 512
    start_s: float = 75.0  # from its creation until it serves


@dataclass(slots=True)
class _Counters:
    arrived_requests: int = 0
    arrived_prompt_tokens: int = 0
    finished_requests: int = 0
    finished_output_tokens: int = 0
    cached_prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    decode_tokens: float = 0.0
    decoded_rows: int = 0
    kv_tokens_read: float = 0.0


@dataclass(slots=True)
class _Prefix:
    tokens: int
    holders: int = 0
    kept: bool = False
    asked_s: deque[float] = field(default_factory=lambda: deque(maxlen=2))  # the last two times


class Pod:
    """Serves requests; whoever plays the trace sends them."""

    def __init__(self, uid: str, born_s: float, ready_s: float, machine: Machine) -> None:
        self.uid = uid
        self.born_s = born_s
        self.ready_s = ready_s
        self.accepted_length = 1.0
        self.finished: list[Request] = []
        self._machine = machine
        self._now_s = ready_s
        self._waiting: deque[Request] = deque()
        self._running: list[tuple[int, int, Request]] = []  # by the step that ends it
        self._step = 0
        self._order = 0
        self._context = 0.0  # tokens that a step reads
        self._held = 0.0  # by running requests alone
        self._cached = 0  # tokens of prefixes
        self._prefixes: OrderedDict[int, _Prefix] = OrderedDict()
        self._fresh: list[Request] = []  # without a first token yet
        self._left_over = False  # the last step could not read all prompts
        self._counters = _Counters()
        self._noise = random.Random(uid)

    @property
    def num_waiting(self) -> int:
        """Requests that have no answer yet."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that are answered."""
        return len(self._running)

    @property
    def room(self) -> int:
        """Answers that it could begin at once, as a pod tells its router."""
        running, waiting = len(self._running), len(self._waiting)
        if not self.busy:
            return self._machine.rows
        if self._left_over:
            return 0
        places = self._machine.rows - running - waiting
        if self._held > 0.0 and running:  # each more needs as much memory for itself
            more = (self._machine.kv_tokens - self._held) * running / self._held
            places = min(places, int(more) - waiting)
        return max(places, 0)

    @property
    def cached_tokens(self) -> int:
        """Of prefixes that it keeps."""
        return self._cached

    @property
    def busy(self) -> bool:
        """It has something to do."""
        return bool(self._waiting or self._running)

    def take(self, request: Request) -> None:
        """One more waits."""
        self._counters.arrived_requests += 1
        self._counters.arrived_prompt_tokens += request.prompt
        self._waiting.append(request)

    def draft(self, accepted_length: float) -> None:
        """From now on a step gives so many tokens of an answer."""
        if accepted_length == self.accepted_length:
            return
        old, self.accepted_length = self.accepted_length, accepted_length
        running = [
            (self._step + math.ceil((end - self._step) * old / accepted_length), order, request)
            for end, order, request in self._running
        ]
        heapq.heapify(running)
        self._running = running

    def run(self, until_s: float) -> None:
        """Serve until then; the last step may end a little later."""
        while self._now_s < until_s:
            if not self.busy:
                self._now_s = until_s
                return
            prompt = self._read_prompts()
            if prompt or not self._running:
                self._advance(1, prompt)
            else:
                self._advance(self._steps_alike(until_s), 0)

    def _read_prompts(self) -> int:
        """Prompt tokens of the next step; requests whose prompts are read join its answers."""
        budget = self._machine.step_tokens
        while self._waiting and budget > 0 and len(self._running) < self._machine.rows:
            request = self._waiting[0]
            if request.left < 0 and not self._admit(request):
                break
            taken = min(budget, request.left)
            request.left -= taken
            budget -= taken
            if request.left > 0:
                break
            self._waiting.popleft()
            steps = math.ceil(request.output / self.accepted_length)
            self._order += 1
            heapq.heappush(self._running, (self._step + steps, self._order, request))
            self._context += request.prompt
            self._fresh.append(request)
        self._left_over = bool(self._waiting)
        return self._machine.step_tokens - budget

    def _admit(self, request: Request) -> bool:
        """Look its prefix up and make room for it; False: it has to wait for others to end."""
        prefix = self._prefixes.setdefault(request.group, _Prefix(request.prefix))
        cached = request.prefix if prefix.kept else 0
        unshared = request.prompt - request.prefix + request.output
        prefix.holders += 1  # so that room is not made of it
        if not self._make_room(unshared + request.prefix - cached):
            prefix.holders -= 1
            return False
        self._prefixes.move_to_end(request.group)
        prefix.asked_s.append(self._now_s)
        if not prefix.kept:
            prefix.kept = True
            self._cached += request.prefix
        self._counters.cached_prompt_tokens += cached
        self._held += unshared
        request.unshared = unshared
        request.left = request.prompt - cached
        return True

    def _make_room(self, tokens: int) -> bool:
        """Evict what nobody holds, longest unused first; hot prefixes only if nothing runs."""
        for hot_too in (False, True):
            if hot_too and self._running:
                break
            for prefix in self._prefixes.values():
                if self._used + tokens <= self._machine.kv_tokens:
                    return True
                if prefix.kept and not prefix.holders and (hot_too or not self._is_hot(prefix)):
                    prefix.kept = False
                    self._cached -= prefix.tokens
        return self._used + tokens <= self._machine.kv_tokens or not self._running

    @property
    def _used(self) -> float:
        return self._held + self._cached

    def _is_hot(self, prefix: _Prefix) -> bool:
        asked = prefix.asked_s
        return len(asked) == 2 and asked[0] > self._now_s - HOT_S

    def _steps_alike(self, until_s: float) -> int:
        """Steps until an answer ends or the time is up: they have the same rows."""
        ending = self._running[0][0] - self._step
        first_s, more_s = self._step_s(0), self._more_s
        left_s = until_s - self._now_s
        if more_s <= 0.0:
            steps = left_s / first_s
        else:  # n · first + n(n - 1)/2 · more = left
            half = first_s - more_s / 2
            steps = (math.sqrt(half * half + 2 * more_s * left_s) - half) / more_s
        return max(1, min(ending, math.ceil(steps)))

    def _step_s(self, prompt: int) -> float:
        machine = self._machine
        return (
            machine.base_s
            + machine.prompt_token_s * prompt
            + machine.row_s * len(self._running)
            + machine.kv_token_s * self._context
        )

    @property
    def _more_s(self) -> float:
        """By which a step takes longer than the one before."""
        return self._machine.kv_token_s * len(self._running) * self.accepted_length

    def _advance(self, steps: int, prompt: int) -> None:
        rows, grown = len(self._running), len(self._running) * self.accepted_length
        self._now_s += steps * self._step_s(prompt) + steps * (steps - 1) / 2 * self._more_s
        counters = self._counters
        counters.computed_prompt_tokens += prompt
        counters.decoded_rows += rows * steps
        counters.decode_tokens += grown * steps
        counters.kv_tokens_read += self._context * steps + grown * steps * (steps - 1) / 2
        self._context += grown * steps
        self._step += steps
        for request in self._fresh:
            request.first_s = self._now_s
        self._fresh.clear()
        while self._running and self._running[0][0] <= self._step:
            self._finish(heapq.heappop(self._running)[2])

    def _finish(self, request: Request) -> None:
        request.end_s = self._now_s
        steps = math.ceil(request.output / self.accepted_length)
        self._context -= request.prompt + steps * self.accepted_length
        if not self._running:
            self._context = 0.0  # after a change of the accepted length it is only about right
        self._held -= request.unshared
        self._prefixes[request.group].holders -= 1
        self._counters.finished_requests += 1
        self._counters.finished_output_tokens += request.output
        self.finished.append(request)

    def report(self, now_s: float) -> State:
        """What it says of itself."""
        counters, machine = self._counters, self._machine
        hot = sum(prefix.tokens for prefix in self._prefixes.values() if self._is_hot(prefix))
        running = len(self._running)
        return State(
            boot_id=self.uid,
            uptime_s=now_s - self.born_s,
            phase="ready",
            running=running,
            waiting=len(self._waiting),
            arrived_requests=counters.arrived_requests,
            arrived_prompt_tokens=counters.arrived_prompt_tokens,
            finished_requests=counters.finished_requests,
            finished_output_tokens=counters.finished_output_tokens,
            cached_prompt_tokens=counters.cached_prompt_tokens,
            computed_prompt_tokens=counters.computed_prompt_tokens,
            decode_tokens=int(counters.decode_tokens),
            decoded_rows=counters.decoded_rows,
            drafted_tokens=0,
            kv_tokens_read=int(counters.kv_tokens_read),
            saved_prefill_seconds=counters.cached_prompt_tokens * machine.prompt_token_s,
            max_running=machine.rows,
            kv_tokens=KvTokens(
                capacity=machine.kv_tokens, held=int(self._held), cached=self._cached, hot=hot
            ),
            unshared_tokens_per_request=self._held / running if running else None,
            step_fit=self._fit() if counters.decoded_rows else None,
            speculation=Speculation(state="active") if self.accepted_length > 1 else None,
        )

    def _fit(self) -> StepFit:
        """As a fit is: some percent wrong."""
        machine = self._machine

        def about(value: float) -> float:
            return value * self._noise.uniform(0.95, 1.05)

        return StepFit(
            base=about(machine.base_s),
            prompt_token=about(machine.prompt_token_s),
            row=about(machine.row_s),
            kv_token=about(machine.kv_token_s),
            drafted_token=0.0,
            samples=512,
            error=0.05,
        )
