"""The pool of KV cache blocks: who holds which block, and which blocks can be found again.

    free ──take──► held ──release──► free, or cached when its content has a name
                    ▲                                    │             │
                    └──────────────── hold ──────────────┘          evicted: free

A block is a plain integer, an index into the cache tensors. The pool counts; it never touches
them. Cached blocks are evicted in two queues, longest unused first: those that are asked for
again and again ("hot") only after all others, and never to admit one more request.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from aweigh_runtime.engine.naming import Name

Evicted = Callable[[Name, int], None]  # called before a cached block is given away


class BlockPool:
    """A fixed number of blocks with holder counts, and an index of named ones.

    Every operation costs O(blocks that it names), taking and giving back times the logarithm of the
    pool's size.
    """

    def __init__(
        self,
        num_blocks: int,
        block_tokens: int,
        max_cached: int | None = None,
        is_hot: Callable[[Name], bool] = lambda name: False,
        on_evicted: Evicted = lambda name, block: None,
    ) -> None:
        """Make a pool of free blocks.

        Args:
            num_blocks: in the cache.
            block_tokens: tokens of one block.
            max_cached: most named blocks that nobody holds; None: no bound but the pool.
            is_hot: whether a name is asked for again and again.
            on_evicted: told what is lost.
        """
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self.num_unshared = 0  # blocks with exactly one holder
        self.gains = 0  # times that a block became available, or was given a name
        self._max_cached = num_blocks if max_cached is None else max_cached
        self._is_hot = is_hot
        self._on_evicted = on_evicted
        # A heap: the lowest ones are taken first, so that those of a request lie side by side also
        # when others were given back in any order.
        self._free = list(range(num_blocks))
        self._holders = [0] * num_blocks
        self._block_of: dict[Name, int] = {}
        self._name_of: list[Name | None] = [None] * num_blocks
        self._cold: OrderedDict[int, Name] = OrderedDict()  # longest unused first
        self._hot: OrderedDict[int, Name] = OrderedDict()

    @property
    def num_cached(self) -> int:
        """Named blocks that nobody holds."""
        return len(self._cold) + len(self._hot)

    @property
    def num_held(self) -> int:
        """Blocks that requests hold."""
        return self.num_blocks - len(self._free) - self.num_cached

    @property
    def available(self) -> int:
        """Blocks that `take` can hand out right now, for a request that runs."""
        return len(self._free) + self.num_cached

    @property
    def available_cold(self) -> int:
        """The same without evicting what is asked for again and again."""
        return len(self._free) + len(self._cold)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_tokens)

    def take(self, count: int) -> list[int]:
        """Hold `count` blocks, evicting the longest unused ones once no block is free."""
        if count > self.available:
            raise OutOfBlocks(count, self.available)
        blocks = [heappop(self._free) if self._free else self._evict() for _ in range(count)]
        blocks.sort()  # what lies side by side is read without a copy
        for block in blocks:
            self._holders[block] = 1
        self.num_unshared += count
        return blocks

    def take_one(self) -> int | None:
        """The same for one block, without the cost of a list; None: there is none."""
        if self._free:
            block = heappop(self._free)
        elif self._cold or self._hot:
            block = self._evict()
        else:
            return None
        self._holders[block] = 1
        self.num_unshared += 1
        return block

    def find(self, name: Name) -> int | None:
        """The block of a name."""
        return self._block_of.get(name)

    def num_leaving(self, blocks: Sequence[int], *, hot: bool) -> int:
        """Of named blocks those that nobody holds: holding them makes less available.

        Args:
            blocks: with names.
            hot: of `available`; otherwise of `available_cold`.
        """
        if hot:
            return sum(self._holders[block] == 0 for block in blocks)
        return sum(block in self._cold for block in blocks)

    def hold(self, block: int) -> None:
        """One more request uses a named block."""
        holders = self._holders[block]
        if holders == 0:
            self._cold.pop(block, None)
            self._hot.pop(block, None)
            self.num_unshared += 1
        elif holders == 1:
            self.num_unshared -= 1
        self._holders[block] = holders + 1

    def name(self, block: int, name: Name) -> int:
        """Let `find` know a held block, unless it knows another one; returns the one it knows."""
        known = self._block_of.setdefault(name, block)
        if known == block and self._name_of[block] is None:
            self._name_of[block] = name
            self.gains += 1
        return known

    def forget(self, block: int) -> None:
        """Take the name from a block: its content was not computed after all."""
        name = self._name_of[block]
        if name is None:
            return
        self._name_of[block] = None
        del self._block_of[name]
        if self._holders[block] == 0:  # its request went before the step that failed was read
            self._cold.pop(block, None)
            self._hot.pop(block, None)
            heappush(self._free, block)

    def cool(self, name: Name) -> bool:
        """A name is not hot any more: its block goes like all others, if it has one."""
        block = self._block_of.get(name)
        if block is None or block not in self._hot:
            return False
        del self._hot[block]
        self._cold[block] = name
        self.gains += 1
        return True

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a request's blocks, last one first: a prefix is of no use without its head."""
        holders, let_go = self._holders, self._let_go
        for block in reversed(blocks):
            left = holders[block] - 1
            holders[block] = left
            if left == 0:
                self.num_unshared -= 1
                let_go(block)
            elif left == 1:
                self.num_unshared += 1
        while self.num_cached > self._max_cached:
            heappush(self._free, self._evict())

    def _let_go(self, block: int) -> None:
        self.gains += 1
        name = self._name_of[block]
        if name is None:
            heappush(self._free, block)
        elif self._is_hot(name):
            self._hot[block] = name
        else:
            self._cold[block] = name

    def _evict(self) -> int:
        block, name = (self._cold or self._hot).popitem(last=False)
        self._name_of[block] = None
        del self._block_of[name]
        self._on_evicted(name, block)
        return block


class OutOfBlocks(RuntimeError):
    """More blocks were asked for than `available` promised. A bug in the caller, not a load."""

    def __init__(self, wanted: int, available: int) -> None:
        super().__init__(f"wanted {wanted} KV blocks, only {available} available")
