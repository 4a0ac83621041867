"""The model's tokenizer. It encodes in threads of its own, so that long prompts block nobody.

Only the batch calls of the backend release the interpreter's lock; its plain `encode` keeps it, and
then a thread of its own would help nobody. A long text does not delay short ones: it has another
thread. Both threads use the same backends, which therefore never change.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer as Backend

from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel
from aweigh_runtime.text.detokenizer import Detokenizer, UnknownSpelling, Vocabulary
from aweigh_runtime.text.disguise import Piece, Specials

Item = TypeVar("Item")

_LONG_CHARACTERS = 64 << 10
_TOKEN_CHARACTERS = 4  # about
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the backend's pool has one queue for all texts


class Tokenizer:
    """Encodes prompts and hands out decoders for answers."""

    def __init__(self, backend: Backend) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._literal_backend = Backend.from_str(backend.to_str())  # special tokens are just text
        self._literal_backend.encode_special_tokens = True
        added = backend.get_added_tokens_decoder()
        special = {id: token.content for id, token in added.items() if token.special}
        self.specials = Specials(list(special.values()))
        self.vocabulary = Vocabulary(backend, special.keys())
        self.longest_token_bytes = max(self.vocabulary.longest_bytes(), 1)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")
        self._long_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long texts")

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

    def name_of(self, id: int) -> str | None:
        """A token as the vocabulary spells it."""
        name: str | None = self._backend.id_to_token(id)
        return name

    async def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Tokens of a prompt, by default with the special tokens that the model wants around it."""
        return await self._in_thread(
            lambda: list(self._backend.encode_batch([text], add_special_tokens=add_special)[0].ids),
            len(text),
        )

    async def encode_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """Tokens of a rendered chat, whose template has written its special tokens itself."""
        num_characters = sum(len(piece.text) for piece in pieces)
        return await self._in_thread(lambda: self._pieces(pieces), num_characters)

    async def decode(self, tokens: Sequence[int], *, keep_special: bool) -> list[str]:
        """The text that each token completes, and one more piece with what no token did."""
        detokenizer = self.detokenizer(keep_special=keep_special)
        return await self._in_thread(
            lambda: [*map(detokenizer.feed, tokens), detokenizer.finish()],
            len(tokens) * _TOKEN_CHARACTERS,
        )

    def detokenizer(
        self, *, keep_special: bool = False, spelled: Set[str] = frozenset()
    ) -> Detokenizer:
        """A decoder for one answer.

        Args:
            keep_special: special tokens are text like others.
            spelled: those of them that are in any case.
        """
        if keep_special:
            return Detokenizer(self.vocabulary, frozenset())
        kept = {self.id_of(text) for text in spelled}
        return Detokenizer(self.vocabulary, self.vocabulary.special - kept)

    def close(self) -> None:
        """End the threads."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._long_thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], list[Item]], num_characters: int) -> list[Item]:
        thread = self._long_thread if num_characters > _LONG_CHARACTERS else self._thread
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    def _pieces(self, pieces: Sequence[Piece]) -> list[int]:
        literal = _batch(self._literal_backend, [piece.text for piece in pieces if piece.literal])
        control = _batch(self._backend, [piece.text for piece in pieces if not piece.literal])
        return [token for piece in pieces for token in next(literal if piece.literal else control)]


def _batch(backend: Backend, texts: list[str]) -> Iterator[list[int]]:
    encoded = backend.encode_batch(texts, add_special_tokens=False)
    return (encoding.ids for encoding in encoded)
