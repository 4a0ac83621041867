"""Decides what each forward pass computes. Python over integers: no tensors, no clock.

    waiting ──room for its prompt──► reading ──prompt is read──► answering ──finish──► gone
       ▲                                │                            │
       └──────────── preempted ─────────┴────────────────────────────┘

Every answering request gets its token in every step; tokens that are drafted behind it and prompts
share what is left of the step's budget, in order of arrival. When blocks run out, the last in that
order gives its own back and computes them again later; nobody has to for what is only drafted.
"""

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from aweigh_runtime.engine.blocks import BlockPool
from aweigh_runtime.engine.messages import Counters, KvTokens
from aweigh_runtime.engine.naming import Name
from aweigh_runtime.engine.prefixes import Copies, Found, Memory, Prefixes
from aweigh_runtime.engine.request import Request, no_blocks
from aweigh_runtime.engine.sizing import DRAFTED_TOKENS
from aweigh_runtime.engine.waiting import WaitingLine

Lookahead = Callable[[Request], int]
"""How many tokens shall be drafted behind the last one of an answering request."""

LONG_WAIT_S = 5.0  # after that a request may push out what others ask for again and again
PROMPT_LOGPROBS_TOKENS = 256  # in one step: each of them needs a row of logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a step."""

    max_running: int
    step_tokens: int
    max_model_len: int
    drafted_tokens: int = DRAFTED_TOKENS


class Part(msgspec.Struct, gc=False):  # hundreds a step; nothing refers back to one
    """A run of one request's tokens to compute: a prompt, part of a prompt, or one token."""

    request: Request
    start: int  # position of the first token
    end: int  # tokens of the request in the cache once the step is done
    room: int = 0  # for tokens that may be drafted behind them: blocks are there

    @property
    def num_tokens(self) -> int:
        """Tokens to compute, without those that are drafted."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass, and the copies that must be made before it."""

    parts: list[Part] = field(default_factory=list)
    copies: Copies = field(default_factory=Copies)


@dataclass(slots=True)
class _Budget:
    """What is left of a step."""

    tokens: int
    scored_tokens: int = PROMPT_LOGPROBS_TOKENS

    def of(self, request: Request) -> int:
        """Tokens of a prompt that still have room."""
        if request.prompt_logprobs is None:
            return self.tokens
        return min(self.tokens, self.scored_tokens)

    def spend(self, request: Request, num_tokens: int) -> None:
        """A part has been planned."""
        self.tokens -= num_tokens
        if request.prompt_logprobs is not None:
            self.scored_tokens -= num_tokens


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why the first request in line cannot start; searching its prefix in every step costs."""

    request: Request
    hot: bool  # whether hot blocks would have been taken
    taken: int  # blocks for those that run
    gains: int  # of the pool, at which there may be room

    def stands(self, request: Request, hot: bool, taken: int, pool: BlockPool) -> bool:
        """Nothing has changed that could make room."""
        same = request is self.request and hot == self.hot
        return same and pool.gains + max(self.taken - taken, 0) < self.gains


class Scheduler:
    """Continuous batching over a pool of blocks that requests share."""

    def __init__(self, limits: Limits, memory: Memory) -> None:
        self.counters = Counters()
        self.prefixes = Prefixes(memory, self.counters)
        self._limits = limits
        self._pool = self.prefixes.pool
        self._waiting = WaitingLine()
        self._running: list[Request] = []  # by `order`
        self._requests: dict[int, Request] = {}
        self._obstacle: _Obstacle | None = None  # of the first one that waits

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Answers that wait for blocks."""
        return len(self._waiting)

    @property
    def may_admit(self) -> bool:
        """Somebody waits, and it is not known that there is no room."""
        full = len(self._running) >= self._limits.max_running
        return bool(self._waiting) and not full and self._obstacle is None

    @property
    def waiting_requests(self) -> float:
        """The same as clients count them: several answers to one prompt are one request."""
        return self._waiting.requests

    @property
    def waiting_prompt_tokens(self) -> int:
        """Of all that wait."""
        return self._waiting.prompt_tokens

    @property
    def idle(self) -> bool:
        """There is nothing to compute."""
        return not self._running and not self._waiting

    def kv_tokens(self, now_s: float) -> KvTokens:
        """How the pool is used."""
        self.prefixes.lookups.forget_old(now_s)
        tokens = self._pool.block_tokens
        return KvTokens(
            capacity=self._pool.num_blocks * tokens,
            held=self._pool.num_held * tokens,
            cached=self._pool.num_cached * tokens,
            hot=self.prefixes.lookups.num_hot * tokens,
        )

    def unshared_tokens_per_request(self) -> float | None:
        """KV tokens that a running request shares with nobody; None: none runs."""
        if not self._running:
            return None
        return self._pool.num_unshared * self._pool.block_tokens / len(self._running)

    def add(self, request: Request, now_s: float) -> None:
        """Queue a request.

        Raises:
            RequestTooLong: it could never be computed.
        """
        needed, longest = self._pool.blocks_for(request.max_tokens), self._limits.max_model_len
        if not request.tokens or request.max_tokens > longest or needed > self._pool.num_blocks:
            raise RequestTooLong(request, needed, self._pool.num_blocks, longest)
        self.prefixes.arrive(request, now_s)
        request.arrived_s = now_s
        self._requests[request.id] = request
        self._waiting.join(request)

    def abort(self, id: int) -> None:
        """Drop a request wherever it stands; one that has finished meanwhile is no error."""
        request = self._requests.get(id)
        if request is not None:
            self.finish(request)

    def distrust(self, request: Request) -> None:
        """Drop a request whose keys and values are broken."""
        self.prefixes.distrust(request)
        self.finish(request)

    def finish(self, request: Request) -> None:
        """Drop a request; its blocks are free, or found by the next one, at once.

        A step that still computes it does no harm: whoever gets the blocks writes them after it.
        """
        del self._requests[request.id]
        if not request.running:
            self._waiting.leave(request)
            return
        self._running.remove(request)
        self._let_go(request)
        request.gone = True

    def advance(self, part: Part, kept: int) -> None:
        """A part is computed, and so many of the tokens drafted behind it have stayed."""
        request, end = part.request, part.end + kept
        if kept:  # they may have filled a block that nobody could name before
            self.prefixes.announce(request, end)
        request.computed = end
        if end > request.reached:  # max() takes longer, and this runs for each answer in each step
            request.reached = end

    def step(self, now_s: float, lookahead: Lookahead | None = None) -> Step:
        """Choose the next forward pass: O(running requests, blocks that change hands).

        Args:
            now_s: on any clock that never goes back.
            lookahead: None: nothing is drafted.
        """
        self.prefixes.begin_step()
        parts: list[Part] = []
        preempted = self.counters.preemptions
        reading = self._continue_answers(parts)
        budget = _Budget(self._limits.step_tokens - len(parts))
        if lookahead is not None and self.counters.preemptions == preempted:
            self._look_ahead(parts, lookahead, reading, budget)
        self._continue_prompts(reading, parts, budget)
        if self.counters.preemptions == preempted:  # blocks ran out: let nobody new in this time
            self._admit(reading, parts, budget, now_s)
        return Step(parts, self.prefixes.take_copies())

    def undo(self, lost: Sequence[Name] = ()) -> None:
        """The last step failed: nothing of it was computed, nobody may rely on it.

        Args:
            lost: what it was to store in host memory, if its copies failed.
        """
        for request in self.prefixes.undo_step(lost):
            if request.running:
                self._preempt(request)

    def _continue_answers(self, parts: list[Part]) -> list[Request]:
        """The hot path: most of the time a token fits into the block that its request has.

        Returns the requests that still read their prompts.
        """
        block_tokens = self._pool.block_tokens
        last, plan = block_tokens - 1, parts.append
        reading = []
        for request in self._running[:]:
            computed = request.computed
            end = computed + 1
            if len(request.tokens) != end:
                reading.append(request)
                continue
            if not request.running:
                continue
            past_block = computed % block_tokens
            if past_block == 0 and not self._has_next_block(request, parts):
                continue
            plan(Part(request, computed, end))
            if past_block == last:
                self.prefixes.announce(request, end)
        return reading

    def _has_next_block(self, request: Request, parts: list[Part]) -> bool:
        """Give an answer that has filled its blocks another one; most of the time there is one."""
        self.prefixes.settle(request)
        if len(request.blocks) * self._pool.block_tokens > request.computed:
            return True  # drafts had room
        block = self._pool.take_one()
        if block is None:
            return self._reserve(request, 1, parts)
        request.blocks.append(block)
        return True

    def _look_ahead(
        self, parts: list[Part], lookahead: Lookahead, reading: list[Request], budget: _Budget
    ) -> None:
        """Give answers room for drafts, as far as blocks are left and the step's budget goes.

        Each running request keeps a block to grow into, each prompt what it needs, and those that
        read or wait keep half of the budget.
        """
        promised = sum(self._missing(request, len(request.tokens)) for request in reading)
        spare = self._pool.available_cold - len(self._running) - promised
        left = budget.tokens // 2 if reading or self._waiting else budget.tokens
        left = min(left, self._limits.drafted_tokens)
        for part in parts:
            request = part.request
            wanted = min(lookahead(request), request.max_tokens - len(request.tokens) - 1, left)
            if wanted <= 0:
                continue
            missing = self._missing(request, part.end + wanted)
            if missing and missing > spare:
                continue
            # The next draft may begin before anybody has read what became of this one.
            last = min(part.end + 2 * wanted, request.max_tokens)
            missing = max(missing, min(self._missing(request, last), spare))
            spare -= missing
            request.blocks.extend(self._pool.take(missing))
            part.room = wanted
            left -= wanted
            budget.tokens -= wanted

    def _continue_prompts(self, reading: list[Request], parts: list[Part], budget: _Budget) -> None:
        for request in reading:
            if budget.tokens <= 0:
                break
            if not request.running:
                continue
            self.prefixes.adopt_more(request)
            num_tokens = self._portion(request, budget)
            if num_tokens and self._reserve(request, num_tokens, parts):
                self._plan(parts, request, num_tokens, budget)

    def _admit(
        self, reading: list[Request], parts: list[Part], budget: _Budget, now_s: float
    ) -> None:
        if not self._waiting:
            return
        promised = sum(self._missing(request, len(request.tokens)) for request in reading)
        while len(self._running) < self._limits.max_running:
            request = self._waiting.first(scored=budget.scored_tokens > 0)
            if request is None or budget.of(request) <= 0:
                break
            found = self._startable(request, promised, now_s)
            if found is None:
                break
            self._start(request, found, now_s)
            num_tokens = self._portion(request, budget)
            self._grow(request, num_tokens)
            self._plan(parts, request, num_tokens, budget)
            promised += self._missing(request, len(request.tokens))

    def _startable(self, request: Request, promised: int, now_s: float) -> Found | None:
        """The known prefix of a prompt for which there is room; None: there is none.

        Each running request keeps a block to grow into, and what is asked for again and again
        stays, within the shares of other callers, unless this one has waited for long.
        """
        hot = not self._running or now_s - request.arrived_s >= LONG_WAIT_S
        taken = promised + len(self._running) if self._running else 0
        if self._obstacle is not None and self._obstacle.stands(request, hot, taken, self._pool):
            return None
        found = self.prefixes.find(request)
        shortage, lookups = self._shortage(request, found, taken, hot), self.prefixes.lookups
        while not hot and shortage > 0 and lookups.give_way(request.caller, shortage):
            shortage = self._shortage(request, found, taken, hot)
        if shortage <= 0:
            self._obstacle = None
            return found
        self._obstacle = _Obstacle(request, hot, taken, self._pool.gains + shortage)
        return None

    def _shortage(self, request: Request, found: Found, taken: int, hot: bool) -> int:
        """Blocks that are missing to start a request which has found some."""
        held = [block for block in found if block is not None]
        leaving = self._pool.num_leaving(held, hot=hot)
        needed = self._pool.blocks_for(len(request.tokens)) - len(held) + leaving + taken
        return needed - (self._pool.available if hot else self._pool.available_cold)

    def _start(self, request: Request, found: Found, now_s: float) -> None:
        self._waiting.admit(request)
        if request.started_s is None:
            request.started_s = now_s
        request.running = True
        if self._running and self._running[-1].order > request.order:
            insort(self._running, request, key=lambda each: each.order)
        else:  # as it mostly is: nobody has arrived later
            self._running.append(request)
        self.prefixes.adopt(request, found)

    def _portion(self, request: Request, budget: _Budget) -> int:
        """Tokens of a prompt that this step reads; it stops between blocks if it has to stop."""
        limit = budget.of(request)
        if request.pending <= limit:
            return request.pending
        past_block = (request.computed + limit) % self._pool.block_tokens
        return limit - past_block if past_block < limit else limit

    def _plan(self, parts: list[Part], request: Request, num_tokens: int, budget: _Budget) -> None:
        part = Part(request, request.computed, request.computed + num_tokens)
        parts.append(part)
        budget.spend(request, num_tokens)
        self.prefixes.announce(request, part.end)

    def _missing(self, request: Request, num_tokens: int) -> int:
        return max(self._pool.blocks_for(num_tokens) - len(request.blocks), 0)

    def _reserve(self, request: Request, num_tokens: int, parts: list[Part]) -> bool:
        """Grow a running request, at the expense of those after it if need be."""
        self.prefixes.settle(request)
        while self._missing(request, request.computed + num_tokens) > self._pool.available:
            victim = self._victim(request, parts)
            if victim is None:
                return False
            self._preempt(victim)
            if victim is request:
                return False
        self._grow(request, num_tokens)
        return True

    def _grow(self, request: Request, num_tokens: int) -> None:
        missing = self._missing(request, request.computed + num_tokens)
        request.blocks.extend(self._pool.take(missing))

    def _victim(self, request: Request, parts: list[Part]) -> Request | None:
        """The last one that is not part of this step; at worst an answer gives way itself.

        A prompt that finds no room beside the others' answers keeps what it has and waits.
        """
        planned = {part.request.id for part in parts}
        for last in reversed(self._running):
            if last is request:
                break
            if last.id not in planned:
                return last
        return request if request.pending == 1 else None

    def _preempt(self, request: Request) -> None:
        self._running.remove(request)
        self._let_go(request)
        if request.history is not None:
            request.history.index = None  # it takes memory, and is read again
        self._waiting.rejoin(request)
        self.counters.preemptions += 1

    def _let_go(self, request: Request) -> None:
        """Release a request's blocks. What they hold can be found until it is evicted."""
        self.prefixes.settle(request)
        self._pool.release(request.blocks)
        request.blocks = no_blocks()
        request.computed = request.settled = 0
        request.running = False
        request.life += 1


class RequestTooLong(ValueError):
    """A request could never be computed, however idle the server."""

    def __init__(self, request: Request, needed: int, num_blocks: int, longest: int) -> None:
        super().__init__(
            f"the request has {request.num_prompt_tokens} prompt tokens and may grow to "
            f"{request.max_tokens}, which need {needed} KV blocks; expected at least 1 token, and "
            f"at most {longest} tokens and {num_blocks} blocks altogether. Shorten the prompt or "
            "lower max_tokens."
        )
