"""How answers are guessed ahead: the part `speculativeDecoding` of an InferenceService."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from aweigh_api import model_uri
from aweigh_api.schema import Rule, Schema

SpeculationMethod = Literal["none", "draft", "ngram"]
MAX_DRAFT_MODELS = 4
MAX_DRAFT_TOKENS = 16
DEFAULT_DRAFT_TOKENS = 8


class DraftModel(Schema):
    """A small model that guesses what the large one will say."""

    uri: str = Field(
        min_length=1, max_length=1024, description=f"Where its weights are: {model_uri.FORMS}."
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        pattern=model_uri.REVISION,
        description="Branch, tag or commit of an hf:// repository. A commit pins the weights.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = model_uri.rules(
        "speculativeDecoding.draftModels[]", "drafts"
    )


class SpeculativeDecoding(Schema):
    """Several tokens are guessed, and checked in one step: what the model says, sooner."""

    method: SpeculationMethod | None = Field(
        default=None,
        description="Who guesses: draft (a small model), ngram (what stood in prompt and answer "
        "before) or none. Default: draft, where draftModels are given.",
    )
    draft_models: (
        Annotated[list[DraftModel], Field(min_length=1, max_length=MAX_DRAFT_MODELS)] | None
    ) = Field(
        default=None,
        description="Models that guess, for each answer the one that pays best. They must have the "
        "vocabulary of the model that is served; one that cannot be used is left out, and the "
        "condition SpeculationEffective says why; only the claim of a pvc:// one must exist, or no "
        "pod starts (MountFailed). model.secretRef opens their sources too.",
    )
    max_draft_tokens: int = Field(
        default=DEFAULT_DRAFT_TOKENS,
        ge=1,
        le=MAX_DRAFT_TOKENS,
        description="Most tokens that are guessed at once; how many really are follows from what "
        "is measured.",
    )
    min_acceptance_percent: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Guessing pauses while fewer of its tokens are accepted. Default: while it "
        "makes answers slower, as measured.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.method) || has(self.draftModels)",
            message="speculativeDecoding needs draftModels or a method: name a draft model, or set "
            "method to ngram",
            holds=lambda part: part.method is not None or part.draft_models is not None,
        ),
        Rule(
            cel="!has(self.method) || self.method != 'draft' || has(self.draftModels)",
            message="speculativeDecoding.method draft needs draftModels: name at least one, or set "
            "method to ngram",
            holds=lambda part: part.method != "draft" or part.draft_models is not None,
        ),
        Rule(
            cel="!has(self.draftModels) || !has(self.method) || self.method == 'draft'",
            message="speculativeDecoding.draftModels have no effect with method ngram or none: "
            "remove them, or set method to draft",
            holds=lambda part: part.draft_models is None or part.method in (None, "draft"),
        ),
        Rule(
            cel="!has(self.draftModels) || self.draftModels.all(one, "
            "self.draftModels.exists_one(other, one == other))",
            message="speculativeDecoding.draftModels has a model twice: remove one of them",
            holds=lambda part: _differ(part.draft_models or []),
        ),
        Rule(
            cel="!has(self.method) || self.method != 'none' || "
            f"(!has(self.minAcceptancePercent) && self.maxDraftTokens == {DEFAULT_DRAFT_TOKENS})",
            message="speculativeDecoding.maxDraftTokens and minAcceptancePercent have no effect "
            "with method none: remove them, or set another method",
            holds=lambda part: (
                part.method != "none"
                or (part.min_acceptance_percent, part.max_draft_tokens)
                == (None, DEFAULT_DRAFT_TOKENS)
            ),
        ),
    )

    @property
    def wanted_method(self) -> SpeculationMethod:
        """Who guesses."""
        return self.method or "draft"


def _differ(drafts: list[DraftModel]) -> bool:
    return len({(draft.uri, draft.revision) for draft in drafts}) == len(drafts)
