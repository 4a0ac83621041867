"""The prefix cache: which blocks of a request need not be computed. Pure; it moves no bytes.

A block gets its name in the step that fills it, so that requests of the same step share it
already. When two requests have filled a block alike, the copy that was named first stays and the
other one's page table is changed at its next step. What is evicted goes to host memory if there is
any, and comes back when that is quicker than computing it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from aweigh_runtime.engine.blocks import BlockPool
from aweigh_runtime.engine.host import HostBlocks
from aweigh_runtime.engine.lookups import Lookups
from aweigh_runtime.engine.messages import Counters
from aweigh_runtime.engine.naming import Name, extend
from aweigh_runtime.engine.request import Request

Found = Sequence[int | None]  # blocks of a known prefix; None: in host memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The blocks that there are, and what is kept in them for later requests."""

    num_blocks: int
    block_tokens: int
    caching: bool = True
    max_cached: int | None = None  # blocks with a name and no holder; None: all of them
    num_host_blocks: int = 0
    load_block_s: float = 0.0  # to copy one of them back, measured


@dataclass(slots=True)
class Copies:
    """Copies before a step, those to host memory first."""

    to_host: list[tuple[int, int]] = field(default_factory=list)  # block, slot
    stored: list[Name] = field(default_factory=list)  # what the slots will hold
    from_host: list[tuple[int, int]] = field(default_factory=list)  # slot, block

    def __bool__(self) -> bool:
        return bool(self.to_host or self.from_host)


class Prefixes:
    """Names blocks, finds them and keeps one copy of each."""

    def __init__(self, memory: Memory, counters: Counters) -> None:
        self.lookups = Lookups(memory.num_blocks, on_cooled=self._cool)
        self.pool = BlockPool(
            memory.num_blocks,
            memory.block_tokens,
            memory.max_cached,
            is_hot=self.lookups.protects,
            on_evicted=self._store,
        )
        self._load_block_s = memory.load_block_s
        self._loading_pays = True  # copying a block back takes less time than computing it
        self._caching = memory.caching
        self._tokens = memory.block_tokens
        self._host = HostBlocks(memory.num_host_blocks)
        self._counters = counters
        self._copies = Copies()  # before the next step
        self._announced: dict[int, Request] = {}  # blocks that got their names in the last step
        # Requests that rely on blocks of the last step, and what they had counted before it.
        self._adopters: dict[Request, tuple[int, int]] = {}

    def begin_step(self) -> None:
        """The last step was computed, or is: what comes after it finds what it writes."""
        self._host.settle()
        self._announced.clear()
        self._adopters.clear()

    def take_copies(self) -> Copies:
        """What must be copied before the step that has been planned."""
        copies, self._copies = self._copies, Copies()
        last = {slot: block for block, slot in copies.to_host}
        if len(last) < len(copies.to_host):  # a slot has changed hands twice
            copies.to_host = [(block, slot) for slot, block in last.items()]
        return copies

    def undo_step(self, lost: Sequence[Name]) -> list[Request]:
        """The last step failed; returns the requests that must begin again.

        Args:
            lost: blocks of which nobody knows whether they have got to host memory.
        """
        for block, request in self._announced.items():  # those from host memory among them
            self.pool.forget(block)
            request.settled = min(request.settled, request.computed // self._tokens)
        for name in lost:
            self._host.drop(name)
        for request, counted in self._adopters.items():
            request.cached, request.reached = counted
        return list(self._adopters)

    def judge_loading(self, prompt_token_s: float | None) -> None:
        """Whether a block is quicker copied back than computed, now that this is known."""
        if prompt_token_s is not None:
            self._loading_pays = self._load_block_s < prompt_token_s * self._tokens

    def distrust(self, request: Request) -> None:
        """What a request's blocks hold is broken: nobody may find it."""
        for block in request.blocks:
            self.pool.forget(block)
        request.settled = len(request.blocks)

    def serves(self, request: Request) -> bool:
        """Whether a request may begin with what others have computed.

        Log-probabilities of a prompt need all of it to be computed.
        """
        return self._caching and request.prompt_logprobs is None

    def arrive(self, request: Request, now_s: float) -> None:
        """Note what a new request asks for."""
        if self._caching:
            self._extend_names(request, request.num_prompt_tokens // self._tokens)
            if request.first:  # that several answers are wanted makes no prompt popular
                self.lookups.record(request.caller, request.names, now_s)

    def find(self, request: Request) -> Found:
        """The longest known prefix of a request that has no block yet."""
        found: list[int | None] = []
        for index in range(self._usable(request)):
            name = request.names[index]
            block = self.pool.find(name)
            if block is None and not (self._loading_pays and name in self._host):
                break
            found.append(block)
        return found

    def adopt(self, request: Request, found: Found) -> None:
        """Let a request begin after its known prefix."""
        for block in found:
            if block is not None:
                self.pool.hold(block)
        missing = [name for name, b in zip(request.names, found, strict=False) if b is None]
        loaded = iter(self._load(request, missing))
        self._advance(request, [next(loaded) if b is None else b for b in found])

    def adopt_more(self, request: Request) -> None:
        """Skip what another request has computed since, or computes in this very step."""
        usable = self._usable(request)
        while len(request.blocks) * self._tokens == request.computed < usable * self._tokens:
            block = self.pool.find(request.names[len(request.blocks)])
            if block is None:
                break
            self.pool.hold(block)
            self._advance(request, [block])

    def announce(self, request: Request, end: int) -> None:
        """Name the blocks that the step being planned fills, as far as their tokens are known."""
        first = request.computed // self._tokens
        full = min(end, request.num_known) // self._tokens
        if not self._caching or full <= first:
            return
        self._extend_names(request, full)
        blocks, names, let_find = request.blocks, request.names, self.pool.name
        for index in range(first, full):
            block = blocks[index]
            if let_find(block, names[index]) == block:
                self._announced[block] = request
                if index == request.settled:
                    request.settled = index + 1

    def settle(self, request: Request) -> None:
        """Exchange blocks of which another copy was named first."""
        full = request.computed // self._tokens
        if not self._caching or full <= request.settled:
            return
        self._extend_names(request, full)
        for index in range(request.settled, full):
            own = request.blocks[index]
            known = self.pool.name(own, request.names[index])
            if known != own:
                self.pool.hold(known)
                self.pool.release([own])
                request.blocks[index] = known
                self._counters.merged_blocks += 1
                if known in self._announced:
                    self._rely(request)
        request.settled = full

    def _usable(self, request: Request) -> int:
        """Blocks that may come from the cache: one token must be read to predict the next."""
        if not self.serves(request):
            return 0
        usable = (len(request.tokens) - 1) // self._tokens
        self._extend_names(request, usable)
        return usable

    def _advance(self, request: Request, blocks: list[int]) -> None:
        """These blocks hold what would have been computed next."""
        if not blocks:
            return
        self.settle(request)
        self._rely(request)
        before = max(request.reached, request.computed)
        request.blocks.extend(blocks)
        request.computed += len(blocks) * self._tokens
        request.settled = len(request.blocks)
        request.cached += max(request.computed - before, 0)
        request.reached = max(request.reached, request.computed)

    def _rely(self, request: Request) -> None:
        self._adopters.setdefault(request, (request.cached, request.reached))

    def _extend_names(self, request: Request, num_blocks: int) -> None:
        if num_blocks > len(request.names):
            extend(request.names, request.tokens, request.salt, self._tokens, num_blocks)

    def _load(self, request: Request, names: list[Name]) -> list[int]:
        if not names:
            return []
        slots = [self._host.take(name) for name in names]
        blocks = self.pool.take(len(slots))
        self._copies.from_host += zip(slots, blocks, strict=True)
        for block, name in zip(blocks, names, strict=True):
            self.pool.name(block, name)
        self._announced.update(dict.fromkeys(blocks, request))
        self._counters.host_loaded_blocks += len(blocks)
        return blocks

    def _cool(self, name: Name) -> bool:
        return self.pool.cool(name)

    def _store(self, name: Name, block: int) -> None:
        counters, copies = self._counters, self._copies
        counters.evicted_blocks += 1
        slot = self._host.keep(name)
        if slot is not None:
            copies.to_host.append((block, slot))
            copies.stored.append(name)
            counters.host_stored_blocks += 1
