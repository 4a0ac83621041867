"""The model's tokenizer. It encodes in a thread of its own, so that long prompts block nobody.

Only the batch calls of the backend release the interpreter's lock; its plain `encode` keeps it, and
then a thread of its own would help nobody.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenizers import Tokenizer as Backend

from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel
from aweigh_runtime.text.detokenizer import Detokenizer, UnknownSpelling, Vocabulary
from aweigh_runtime.text.disguise import Piece, Specials


class Tokenizer:
    """Encodes prompts and hands out decoders for answers."""

    def __init__(self, backend: Backend) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        special = {id: token.content for id, token in added.items() if token.special}
        self.specials = Specials(list(special.values()))
        self._vocabulary = Vocabulary(backend, special.keys())
        self.longest_token_bytes = max(
            self._vocabulary.longest_bytes(),
            *(len(text.encode()) for text in self.specials.texts),
            1,
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read `tokenizer.json`.

        Raises:
            ModelUnreadable: it is missing or broken.
            UnsupportedModel: it spells tokens in an unknown way.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ModelUnreadable(
                f"{directory} has no tokenizer.json; expected a Hugging Face fast tokenizer"
            )
        try:
            return cls(Backend.from_file(str(path)))
        except UnknownSpelling as error:
            raise UnsupportedModel(f"{path}: {error}") from error
        except Exception as error:  # the backend raises nothing narrower
            raise ModelUnreadable(f"{path} is not a tokenizer: {error}") from error

    def id_of(self, token: str) -> int | None:
        """The id of a token, if there is one."""
        id: int | None = self._backend.token_to_id(token)
        return id

    async def encode(self, text: str) -> list[int]:
        """Tokens of a prompt, with the special tokens that the model wants around it."""
        return await self._in_thread(lambda: list(self._backend.encode_batch([text])[0].ids))

    async def encode_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """Tokens of a rendered chat, whose template has written its special tokens itself."""
        return await self._in_thread(lambda: self._pieces(pieces))

    def detokenizer(self) -> Detokenizer:
        """A decoder for one answer."""
        return Detokenizer(self._vocabulary)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, encode: Callable[[], list[int]]) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, encode)

    def _pieces(self, pieces: Sequence[Piece]) -> list[int]:
        literal = self._batch([piece.text for piece in pieces if piece.literal], literal=True)
        control = self._batch([piece.text for piece in pieces if not piece.literal], literal=False)
        return [token for piece in pieces for token in next(literal if piece.literal else control)]

    def _batch(self, texts: list[str], *, literal: bool) -> Iterator[list[int]]:
        self._backend.encode_special_tokens = literal
        try:
            encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        finally:
            self._backend.encode_special_tokens = False
        return (encoding.ids for encoding in encoded)
