"""The record of a bare pod template, which a Deployment carries in an annotation.

It is believed only when it is whole, and asks for no more rights than the operator would give
today. So what somebody wrote into it by hand is not rolled out; a version of the operator that
changes those rights, or the labels, does replace the pods.
"""

import json
from typing import Any

from aweigh_operator.desired.metadata import Manifest, fingerprint

_RIGHTS = (
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "securityContext",
)


def write(template: Manifest) -> str:
    """The annotation's text."""
    kept = {"fingerprint": fingerprint(template), "template": template}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def read(text: Any) -> Manifest | None:
    """The template, unless the text is not as it was written."""
    try:
        found = json.loads(text)
        template: Manifest = found["template"]
        whole = found["fingerprint"] == fingerprint(template)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return template if whole else None


def harmless(template: Manifest, ours: Manifest) -> bool:
    """Whether a template differs from ours only in what gives its pods no further rights."""
    try:
        pods, our_pods = template["spec"], ours["spec"]
        (container,), (our_container,) = pods["containers"], our_pods["containers"]
        return bool(
            template.keys() == ours.keys()
            and template["metadata"] == ours["metadata"]
            and pods.keys() <= our_pods.keys()
            and all(pods.get(field) == our_pods[field] for field in _RIGHTS)
            and container.keys() <= our_container.keys()
            and container["name"] == our_container["name"]
            and container["securityContext"] == our_container["securityContext"]
            and container["ports"] == our_container["ports"]  # none of the node's
            and isinstance(container["image"], str)
            and all(each.keys() == {"name", "value"} for each in container["env"])
            and all(_is_scratch(each) or each in our_pods["volumes"] for each in pods["volumes"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _is_scratch(volume: Manifest) -> bool:
    return volume.keys() == {"name", "emptyDir"}
