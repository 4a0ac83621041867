"""Which evicted blocks are kept in host memory. It counts slots; the copying is done elsewhere.

    evicted ──keep──► kept ──take──► on its way back ──settle──► free
                       └── longest unused or not copied: dropped ──► free

A block is in one place only: what returns to the device leaves its slot. The index costs less than
300 bytes a slot beside the slot's own bytes.
"""

from collections import OrderedDict

from aweigh_runtime.engine.naming import Name


class HostBlocks:
    """A fixed number of slots, each with room for one block."""

    def __init__(self, num_slots: int) -> None:
        self._free = list(reversed(range(num_slots)))
        self._slot_of: OrderedDict[Name, int] = OrderedDict()  # longest unused first
        self._returning: list[int] = []

    def __len__(self) -> int:
        return len(self._slot_of)

    def keep(self, name: Name) -> int | None:
        """A slot for a block that leaves the device; None: every slot is on its way back."""
        known = self._slot_of.get(name)
        if known is not None:
            self._slot_of.move_to_end(name)
            return known
        if not self._free and self._slot_of:
            self._free.append(self._slot_of.popitem(last=False)[1])
        if not self._free:
            return None
        slot = self._slot_of[name] = self._free.pop()
        return slot

    def __contains__(self, name: Name) -> bool:
        return name in self._slot_of

    def drop(self, name: Name) -> None:
        """What its slot holds is not the block: it was not copied."""
        slot = self._slot_of.pop(name, None)
        if slot is not None:
            self._free.append(slot)

    def take(self, name: Name) -> int:
        """The slot of a block that returns; nobody else gets it before the next `settle`."""
        slot = self._slot_of.pop(name)
        self._returning.append(slot)
        return slot

    def settle(self) -> None:
        """The copies of the last step are under way: their slots may be written after them."""
        self._free += self._returning
        self._returning.clear()
