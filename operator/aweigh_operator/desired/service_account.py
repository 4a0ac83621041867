"""The identity of the serving pods. It has no rights, and its token is not mounted."""

from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata


def manifest(owner: InferenceService) -> Manifest:
    """The ServiceAccount."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(owner),
        "automountServiceAccountToken": False,
    }
