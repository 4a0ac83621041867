"""A model and what drafts for it, where both are shapes. It refuses what contradicts itself, makes
their directories, and says how much memory their keys and values take; it starts nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from aweigh_bench.failures import Impossible
from aweigh_bench.shapes import shape_directory
from aweigh_bench.subject import Setting, model_files, of_shape

BLOCK_TOKENS = 16
_WIDEST_BYTES = 4  # of one value in the cache


@dataclass(frozen=True, slots=True)
class Pair:
    """A model, and what drafts for it."""

    setting: Setting
    draft_models: Sequence[str]


@contextmanager
def shaped(
    setting: Setting, draft_models: Sequence[str], draft_shape: str | None
) -> Iterator[Pair]:
    """The same with directories in place of shapes, for as long as the context lasts.

    Args:
        setting: of the model.
        draft_models: URIs.
        draft_shape: instead of them.

    Raises:
        Impossible: there is no such shape, or what was asked for contradicts itself.
    """
    _expect_sound(setting, draft_models, draft_shape)
    with of_shape(setting) as found:
        if draft_shape is None:
            yield Pair(found, draft_models)
            return
        with shape_directory(draft_shape, "--draft-shape") as directory:
            yield Pair(found, [f"file://{directory}"])


def drafts_named(draft_models: Sequence[str], draft_shape: str | None) -> str:
    """What drafts, as it was asked for; nothing where no model does."""
    return draft_shape or ", ".join(draft_models)


def cache_bytes(setting: Setting, draft_models: Sequence[str], longest: int, answers: int) -> int:
    """Memory in which keys and values of so many answers fit, and not many more.

    Two engines that share a device must not take what they find: the first would take all.

    Args:
        setting: of the model.
        draft_models: URIs.
        longest: tokens of a prompt and its answer.
        answers: at once.
    """
    from aweigh_runtime.model.architectures import read_config
    from aweigh_runtime.model.footprint import bytes_per_token

    blocks = -(-longest // BLOCK_TOKENS) + 1
    directories = [
        model_files(replace(setting, model=uri)) for uri in (setting.model, *draft_models)
    ]
    per_token = sum(bytes_per_token(read_config(each), _WIDEST_BYTES) for each in directories)
    return answers * blocks * BLOCK_TOKENS * per_token


def _expect_sound(setting: Setting, draft_models: Sequence[str], draft_shape: str | None) -> None:
    uris = ", ".join(draft_models)
    if setting.model is None and setting.shape is None:
        raise Impossible("nothing to measure; expected a MODEL, or --shape with a shape's name")
    if draft_models and draft_shape is not None:
        raise Impossible(
            f"--draft-model ({uris}) and --draft-shape ({draft_shape}) are both given; expected "
            "one of them"
        )
    if draft_shape is not None and setting.shape is None:
        raise Impossible(
            f"--draft-shape ({draft_shape}) drafts with random weights, and MODEL "
            f"({setting.model}) has its own; expected --shape instead of MODEL"
        )
    if draft_models and setting.shape is not None:
        raise Impossible(
            f"--draft-model ({uris}) has weights of its own, and --shape ({setting.shape}) has "
            "random ones; expected --draft-shape instead of --draft-model"
        )
