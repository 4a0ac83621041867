"""Which draft models a server would use, by their configs and tokenizers alone."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh_cli.failures import CommandFailure

if TYPE_CHECKING:
    from aweigh_api.spec import InferenceService
    from aweigh_cli.capacity import Draft
    from aweigh_runtime.model.described import Described


@dataclass(frozen=True, slots=True)
class PlannedDrafts:
    """What becomes of the draft models that were named."""

    used: "list[Draft]" = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # URI → why a server leaves it out
    not_compared: list[str] = field(default_factory=list)  # with the model's tokenizer: URIs


def planned_drafts(
    service: "InferenceService | None",
    given: list[str] | None,
    target: "Described",
    model_len: int,
) -> PlannedDrafts:
    """Judge the draft models that were named, else those of the InferenceService.

    Args:
        service: what is planned, if it is one.
        given: values of --draft-model.
        target: the model.
        model_len: tokens of prompt and answer that it serves.

    Raises:
        CommandFailure: one cannot be read, or no server takes such a list.
    """
    from aweigh_api.flags import draft_of
    from aweigh_runtime.config import expect_draft_models
    from aweigh_runtime.failures import InvalidConfiguration

    try:
        expect_draft_models(given or [])
    except InvalidConfiguration as failure:
        raise CommandFailure(str(failure), failure.exit_code) from failure
    named = [draft_of(each) for each in given or []]
    if service is not None and not named:
        named = [(each.uri, each.revision) for each in service.spec.draft_models]
    planned = PlannedDrafts()
    for uri, revision in named:
        _judge(uri, revision, target, model_len, planned)
    return planned


def _judge(
    uri: str, revision: str | None, target: "Described", model_len: int, planned: PlannedDrafts
) -> None:
    from aweigh_cli.capacity import Draft
    from aweigh_cli.model_config import described
    from aweigh_runtime.engine.speculation.fit import context_misfit, vocabulary_misfit
    from aweigh_runtime.failures import (
        ModelNotFound,
        ModelUnreadable,
        StartFailure,
        UnsupportedModel,
    )

    try:
        found = described(uri, revision, "auto")
        misfit = context_misfit(found.config, model_len)
        here, there = _tokenized(found.directory), _tokenized(target.directory)
        if here is None or there is None:
            planned.not_compared.append(uri)
        elif misfit is None:
            misfit = vocabulary_misfit(here, there)
    except (CommandFailure, StartFailure) as failure:
        cause = failure if isinstance(failure, StartFailure) else failure.__cause__
        if not isinstance(cause, (ModelNotFound, ModelUnreadable, UnsupportedModel)):
            # It may be another matter where the server is.
            message = f"draft model {uri}: {failure}"
            raise CommandFailure(message, failure.exit_code) from failure
        planned.refused[uri] = f"DraftUnavailable: {failure}"
        return
    if misfit is None:
        planned.used.append(Draft(uri, found.config, found.kept_bytes))
    else:
        planned.refused[uri] = f"{misfit.reason}: {misfit.why}"


def _tokenized(directory: Path | None) -> Path | None:
    """A folder of this machine whose tokenizer can be read; a config alone may have been copied."""
    if directory is None or find_spec("tokenizers") is None:
        return None
    return directory if (directory / "tokenizer.json").is_file() else None
