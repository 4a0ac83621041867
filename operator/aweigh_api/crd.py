"""The CustomResourceDefinition, generated from the models: `python -m aweigh_api.crd`.

Kubernetes takes a *structural* schema: no references, no unions, no null, bounds as `minimum`.
pydantic writes JSON Schema with all of them, so each construct is rewritten or refused here.
"""

import sys
from typing import Any

import yaml
from pydantic import BaseModel

from aweigh_api import names
from aweigh_api.schema import Schema
from aweigh_api.spec import InferenceService, Spec
from aweigh_api.status import Status

Json = dict[str, Any]

_KEPT = (
    "type", "description", "format", "default", "enum", "pattern",
    "minimum", "maximum", "minLength", "maxLength", "maxItems", "minItems", "maxProperties",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
)  # fmt: skip

_COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 0),
    ("Replicas", "integer", ".status.replicas", 0),
    ("Hit%", "integer", ".status.prefixCache.hitRatePercent", 0),
    ("Accept%", "integer", ".status.speculation.acceptancePercent", 0),
    ("URL", "string", ".status.url", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Model", "string", ".spec.model.uri", 1),
    ("Quant", "string", ".status.quantization.scheme", 1),
    ("Draft", "string", ".status.speculation.state", 1),
    ("Desired", "integer", ".status.scaling.desiredReplicas", 1),
    ("Image", "string", ".status.runtimeImage", 1),
)  # name, type, path, priority; 1 shows with -o wide


def definition() -> Json:
    """The CustomResourceDefinition as an object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": list(names.CATEGORIES),
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> Json:
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": type_, "jsonPath": path, "priority": priority}
            for name, type_, path, priority in _COLUMNS
        ],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": schema()},
    }


def schema() -> Json:
    """The structural schema of an InferenceService."""
    return {
        "type": "object",
        "description": InferenceService.__doc__,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {**structural(Spec), "description": "What is wanted."},
            "status": {**structural(Status), "description": "What is there."},
        },
        "x-kubernetes-validations": _validations(InferenceService),
    }


def structural(model: type[BaseModel]) -> Json:
    """The structural schema of a model, its rules included."""
    return _structural(_schema_of(model), _definitions(model))


def lacking(served: Json, wanted: Json, at: str = "") -> list[str]:
    """The outermost fields of a wanted schema that the served one lacks, as `.spec.model.uri`."""
    there, found = served.get("properties", {}), []
    for name, field in wanted.get("properties", {}).items():
        path = f"{at}.{name}"
        found += lacking(there[name], field, path) if name in there else [path]
    for part in ("items", "additionalProperties"):
        if part in wanted:
            inner = served.get(part)
            found += lacking(inner if isinstance(inner, dict) else {}, wanted[part], f"{at}[]")
    return found


def _definitions(model: type[BaseModel]) -> dict[str, Json]:
    definitions: dict[str, Json] = model.model_json_schema(by_alias=True).get("$defs", {})
    return definitions


def _schema_of(model: type[BaseModel]) -> Json:
    schema = model.model_json_schema(by_alias=True)
    return {key: value for key, value in schema.items() if key != "$defs"}


def _structural(schema: Json, definitions: dict[str, Json]) -> Json:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        inlined = _structural(definitions[name], definitions)
        return inlined | {key: schema[key] for key in ("description", "default") if key in schema}
    if "replace" in schema:
        replacement: Json = schema["replace"]
        return replacement | {key: schema[key] for key in ("description",) if key in schema}
    if "anyOf" in schema:
        return _structural(_without_null(schema), definitions)
    return _plain(schema, definitions)


def _without_null(schema: Json) -> Json:
    """An optional field is one that may be absent: Kubernetes drops null before it stores."""
    variants: list[Json] = [option for option in schema["anyOf"] if option != {"type": "null"}]
    if len(variants) != 1:
        raise ValueError(f"a structural schema has no unions: {variants}; use one shape")
    outside = {k: v for k, v in schema.items() if k != "anyOf" and (k, v) != ("default", None)}
    return variants[0] | outside


def _plain(schema: Json, definitions: dict[str, Json]) -> Json:
    result = {key: schema[key] for key in _KEPT if key in schema}
    if "properties" in schema:
        result["properties"] = {
            name: _structural(field, definitions) for name, field in schema["properties"].items()
        }
        if "required" in schema:
            result["required"] = schema["required"]
        validations = _validations(_models()[schema["title"]])
        if validations:
            result["x-kubernetes-validations"] = validations
    if "items" in schema:
        result["items"] = _structural(schema["items"], definitions)
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(schema["additionalProperties"], definitions)
    return result


def _models() -> dict[str, type[Schema]]:
    return {model.__name__: model for model in Schema.__subclasses__()}


def _validations(model: type[Schema]) -> list[Json]:
    return [rule.validation() for rule in model.RULES]


def main() -> None:
    """Write the definition to standard output."""
    sys.stdout.write("# Generated by `make crds` from aweigh_api; change the models, not this.\n")
    yaml.safe_dump(definition(), sys.stdout, sort_keys=False, width=100)


if __name__ == "__main__":
    main()
