"""Whether two models mean the same by each token."""

from pathlib import Path

from aweigh_quantize.failures import Refusal
from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.text.vocabularies import num_different, vocabulary


class OtherVocabulary(Refusal):
    """A target can verify only tokens of its own; the message says what differs."""


def expect_same(target: Path, draft: Path) -> None:
    """Compare two tokenizers. That the draft has more tokens, or more logits, is no harm.

    Raises:
        OtherVocabulary: a token of the target is another one of the draft, or none.
        ModelUnreadable: a model has no tokenizer.
    """
    own, others = _expected(target), _expected(draft)
    if different := num_different(own, others):
        raise OtherVocabulary(
            f"the vocabulary of the draft {draft.name} has {len(others)} tokens and that of the "
            f"target {target.name} has {len(own)}, of which {different} are not "
            "the same; expected a draft with the target's tokenizer"
        )


def _expected(directory: Path) -> dict[str, int]:
    found = vocabulary(directory)
    if found is None:
        raise ModelUnreadable(
            f"{directory} has no tokenizer.json; expected a Hugging Face fast tokenizer"
        )
    return found
