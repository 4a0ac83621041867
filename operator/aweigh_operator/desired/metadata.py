"""What all children share: name, labels, and the owner by whose deletion they go."""

import hashlib
import json
from typing import Any

from aweigh_api import names
from aweigh_api.spec import InferenceService

Manifest = dict[str, Any]


def metadata(owner: InferenceService) -> Manifest:
    """Metadata of a child."""
    return {
        "name": owner.metadata.name,
        "namespace": owner.metadata.namespace,
        "labels": names.labels(owner.metadata.name),
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": owner.metadata.name,
                "uid": owner.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def router_metadata(owner: InferenceService) -> Manifest:
    """Metadata of a child that belongs to the router."""
    name = owner.metadata.name
    return {
        **metadata(owner),
        "name": names.router(name),
        "labels": names.router_labels(name),
    }


def fingerprint(value: Any) -> str:
    """A short hash of a JSON value, the same for every order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
