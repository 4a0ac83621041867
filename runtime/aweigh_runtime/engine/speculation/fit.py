"""What a model must be to draft for another one: said before its weights are loaded.

Needs no torch: `aweigh plan` asks the same.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.text.vocabularies import num_different, vocabulary

if TYPE_CHECKING:
    from aweigh_runtime.engine.messages import SpeculationReason


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a model cannot draft for another one."""

    reason: "SpeculationReason"
    why: str


def context_misfit(draft: ModelConfig, model_len: int) -> Misfit | None:
    """A draft must take texts as long as the model serves.

    Args:
        draft: its config.
        model_len: tokens of prompt and answer that the model serves.
    """
    if draft.max_positions >= model_len:
        return None
    return Misfit(
        "ContextTooShort",
        f"it was made for {draft.max_positions} tokens, and the model serves {model_len}; lower "
        "maxModelLen (--max-model-len) or use another draft",
    )


def vocabulary_misfit(draft: Path, target: Path) -> Misfit | None:
    """A draft must mean the same by each token; that it has room for more is no harm.

    Args:
        draft: directory of it; without a tokenizer.json it is a misfit.
        target: directory of the model; without a tokenizer.json nothing can be compared.

    Raises:
        ModelUnreadable: a tokenizer.json is no fast tokenizer.
    """
    own, others = vocabulary(target), vocabulary(draft)
    if own is None or own == others:
        return None
    if others is None:
        return Misfit("DraftUnavailable", f"{draft} has no tokenizer.json")
    different = num_different(own, others)
    if different == 0:
        return None
    return Misfit(
        "VocabularyMismatch",
        f"its vocabulary has {len(others)} tokens and the model's {len(own)}, of which "
        f"{different} are not the same; use a draft that was made for this model's tokenizer",
    )
