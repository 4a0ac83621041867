"""Reads InferenceServices from YAML and says what is wrong with them as YAML spells it."""

from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_cli.failures import CommandFailure, ExitStatus

_EXPECTED = {
    "int_type": "a whole number",
    "string_type": "text; quote it",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_UNION_TAGS = ("int", "str")  # pydantic adds the variant that it tried to the path


def read_service(text: str, source: str, name: str | None) -> InferenceService:
    """The InferenceService of that name in a YAML text, or its only one."""
    found = [document for document in _objects(text, source) if _is_service(document, source)]
    chosen = [document for document in found if name in (None, _name(document))]
    if len(chosen) == 1:
        return parse_service(chosen[0], source)
    available = ", ".join(map(_name, found)) or "none"
    if name is None and chosen:
        raise _refusal(
            f"{source} holds {len(found)} InferenceServices ({available}); pick one with --name"
        )
    wanted = "an InferenceService" if name is None else f"an InferenceService named {name}"
    raise _refusal(f"{source} holds no such object: expected {wanted}, found {available}")


def parse_service(document: dict[str, Any], source: str) -> InferenceService:
    """Validate one object as the API server would."""
    try:
        return InferenceService.model_validate(document, strict=True)
    except ValidationError as error:
        raise _refusal("\n".join(f"{source}: {line}" for line in sentences(error))) from error


def sentences(error: ValidationError) -> list[str]:
    """One sentence for each mistake, its path spelled as in YAML."""
    return list(dict.fromkeys(_sentence(detail) for detail in error.errors()))


def _sentence(detail: Any) -> str:
    kind, path, context = detail["type"], _path(detail["loc"]), detail.get("ctx", {})
    if kind == "value_error":  # a rule of the contract: it names its field itself
        return str(context["error"])
    if kind == "missing":
        return f"{path} is missing; expected a value"
    if kind == "extra_forbidden":
        return f"{path} is not a field of an InferenceService; remove it or correct its name"
    if kind == "quantity":
        return f"{path} is {_shown(detail['input'])}; {detail['msg']}"
    if detail["loc"][-1] in _UNION_TAGS:
        return f"{path} is {_shown(detail['input'])}; expected a quantity, such as 2 or 500m"
    return f"{path} is {_shown(detail['input'])}; expected {_expected(kind, context, detail)}"


def _expected(kind: str, context: dict[str, Any], detail: Any) -> str:
    bounds = {
        "greater_than_equal": f"{context.get('ge')} or more",
        "less_than_equal": f"{context.get('le')} or less",
        "literal_error": context.get("expected"),
        "string_pattern_mismatch": f"text that matches {context.get('pattern')}",
        "string_too_short": f"at least {context.get('min_length')} characters",
        "string_too_long": f"at most {context.get('max_length')} characters",
        "too_long": f"at most {context.get('max_length')} entries",
    }
    return _EXPECTED.get(kind) or bounds.get(kind) or detail["msg"]


def _path(location: Sequence[str | int]) -> str:
    parts = [part for part in location if part not in _UNION_TAGS]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return path.removeprefix(".")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _objects(text: str, source: str) -> list[dict[str, Any]]:
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise _refusal(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    return list(_flattened(documents))


def _flattened(documents: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for document in documents:
        if isinstance(document, dict) and isinstance(document.get("items"), list):
            yield from _flattened(document["items"])
        elif isinstance(document, dict):
            yield document


def _is_service(document: dict[str, Any], source: str) -> bool:
    if document.get("kind") != names.KIND:
        return False
    version = document.get("apiVersion")
    if version != names.API_VERSION:
        raise _refusal(
            f"{source}: apiVersion of InferenceService {_name(document)} is {version}; expected "
            f"{names.API_VERSION}"
        )
    return True


def _name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, dict) else "without a name"


def _refusal(message: str) -> CommandFailure:
    return CommandFailure(message, ExitStatus.BAD_INPUT)
