"""Which text each token of a model means, to compare models."""

from pathlib import Path

from aweigh_runtime.failures import ModelUnreadable


def vocabulary(directory: Path) -> dict[str, int] | None:
    """The ids of all tokens of a model; None: it has no tokenizer.json.

    Raises:
        ModelUnreadable: tokenizer.json is no fast tokenizer.
    """
    from tokenizers import Tokenizer  # `aweigh plan` runs where it is not installed, too

    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        return dict(Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True))
    except Exception as error:  # the library raises nothing more special
        raise ModelUnreadable(f"{path} is no fast tokenizer: {error}") from error


def num_different(own: dict[str, int], others: dict[str, int]) -> int:
    """How many tokens mean something else, or nothing, in the other vocabulary."""
    return sum(others.get(text) != token for text, token in own.items())
