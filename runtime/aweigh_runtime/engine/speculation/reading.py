"""What a draft model has read: of each answer how much, and of which blocks the content. Pure."""

from aweigh_runtime.engine.history import Followed
from aweigh_runtime.engine.naming import Name
from aweigh_runtime.engine.request import Request


class Reading:
    """Remembers it for one draft model, whose keys and values lie in the blocks of the pool."""

    def __init__(self, name: str, block_tokens: int) -> None:
        self._name = name
        self._block_tokens = block_tokens
        self._read: dict[int, Name] = {}  # blocks whose content the draft has read, by its name

    def of(self, request: Request) -> Followed:
        """How far the draft has read an answer, in blocks that are still its own."""
        history = request.history
        assert history is not None
        followed = history.followed.get(self._name)
        if followed is None or followed.life != request.life:
            followed = history.followed[self._name] = Followed(request.life)
        self._keep_what_stayed(followed, request)
        self._keep_blocks(followed, request)
        # A step that was undone has been read already: its last token is read once more.
        followed.tokens = min(followed.tokens, len(request.tokens) - 1)
        self._publish(followed, request)
        self._find(followed, request)
        return followed

    def _keep_what_stayed(self, followed: Followed, request: Request) -> None:
        """Drafted tokens that the draft has read and the answer has got."""
        last = len(request.tokens) - 1  # it is read in any case: its logits are needed
        for token in followed.ahead:
            if followed.tokens >= last or request.tokens[followed.tokens] != token:
                break
            followed.tokens += 1
        followed.ahead = []

    def _keep_blocks(self, followed: Followed, request: Request) -> None:
        """A block may have been exchanged for another one with the same content."""
        old = followed.blocks
        if request.blocks[: len(old)] != old:
            same = next(i for i, block in enumerate(old) if request.blocks[i] != block)
            followed.tokens = min(followed.tokens, same * self._block_tokens)
            followed.named = min(followed.named, same)

    def _publish(self, followed: Followed, request: Request) -> None:
        """Let others find what has been read."""
        full = min(followed.tokens // self._block_tokens, len(request.names))
        for index in range(followed.named, full):
            self._read[request.blocks[index]] = request.names[index]
        followed.named = max(followed.named, full)

    def _find(self, followed: Followed, request: Request) -> None:
        """Skip what was read for others."""
        size = self._block_tokens
        index = followed.tokens // size
        usable = min(len(request.names), (len(request.tokens) - 1) // size)
        first = index
        while index < usable and self._read.get(request.blocks[index]) == request.names[index]:
            index += 1
        if index > first:
            followed.tokens = index * size
            followed.named = index

    def overwrite(self, request: Request, start: int, end: int) -> None:
        """Positions are written anew: nobody finds what was in their blocks."""
        size = self._block_tokens
        for index in range(start // size, -(-end // size)):
            self._read.pop(request.blocks[index], None)
