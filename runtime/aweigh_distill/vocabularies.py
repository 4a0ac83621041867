"""Whether two models mean the same by each token."""

from pathlib import Path

from tokenizers import Tokenizer

from aweigh_runtime.failures import ModelUnreadable


class OtherVocabulary(ValueError):
    """A target can verify only tokens of its own; the message says what differs."""


def expect_same(target: Path, draft: Path) -> None:
    """Compare two tokenizers. That one model pads its vocabulary to more logits is no harm.

    Raises:
        OtherVocabulary: a token is another one, or only one model has it.
        ModelUnreadable: a model has no tokenizer.
    """
    own, others = _vocabulary(target), _vocabulary(draft)
    if own != others:
        same = sum(others.get(text) == token for text, token in own.items())
        raise OtherVocabulary(
            f"the vocabulary of the draft {draft.name} has {len(others)} tokens and that of the "
            f"target {target.name} has {len(own)}, of which {same} are the same; expected a draft "
            "with the target's tokenizer"
        )


def _vocabulary(directory: Path) -> dict[str, int]:
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ModelUnreadable(
            f"{directory} has no tokenizer.json; expected a Hugging Face fast tokenizer"
        )
    try:
        return dict(Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True))
    except Exception as error:  # the library raises nothing more special
        raise ModelUnreadable(f"{path} is no fast tokenizer: {error}") from error
