"""The model's tokenizer. It encodes in a thread of its own, so that long prompts block nobody."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenizers import Tokenizer as Backend

from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel
from aweigh_runtime.text.detokenizer import Detokenizer, UnknownSpelling, Vocabulary
from aweigh_runtime.text.disguise import Piece


class Tokenizer:
    """Encodes prompts and hands out decoders for answers."""

    def __init__(self, backend: Backend) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        special = {id: token.content for id, token in added.items() if token.special}
        self.specials = tuple(special.values())
        self._vocabulary = Vocabulary(backend, special.keys())
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
        return await self._in_thread(lambda: list(self._backend.encode(text).ids))

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
        tokens: list[int] = []
        for piece in pieces:
            self._backend.encode_special_tokens = piece.literal
            tokens += self._backend.encode(piece.text, add_special_tokens=False).ids
        self._backend.encode_special_tokens = False
        return tokens
