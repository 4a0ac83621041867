"""What the pods of a Deployment are made with: what they were, unless spec or upgrade ask for more.

A template is rendered once and then kept. An upgrade renders it anew only where it would become
another one, or where the upgrade forces that. The Deployment notes the upgrade that its pods were
made with, and the last one that was answered, so that whoever asked sees both.
"""

from collections.abc import Callable
from dataclasses import dataclass

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired import record
from aweigh_operator.desired.metadata import Manifest, fingerprint

_NONE = "none"  # no upgrade; a note that is empty would be as one that is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A bare template, and how it came to be."""

    made_from: str  # hash of what it is made from, its image apart
    bare: Manifest  # without what the users put in
    upgrade: str  # that it was made with
    answered: str  # the last one that was asked for

    @property
    def notes(self) -> dict[str, str]:
        """Annotations of the Deployment."""
        return {
            names.TEMPLATE_HASH: self.made_from,
            names.TEMPLATE: record.write(self.bare),
            names.UPGRADE: self.upgrade,
            names.UPGRADE_ANSWERED: self.answered,
        }


def made(
    owner: InferenceService,
    deployment: Manifest | None,
    template_hash: Callable[[str | None], str],
    render: Callable[[str], Manifest],
) -> Made:
    """What the pods of a Deployment shall be made with.

    Args:
        owner: the InferenceService.
        deployment: the one that is there.
        template_hash: of what the pods are made from, by the upgrade that they are made with.
        render: the bare template as this version makes it, by that hash.
    """
    asked, noted = owner.metadata.annotations.get(names.UPGRADE) or _NONE, _annotations(deployment)
    # What an older operator has made notes neither, and follows every upgrade.
    upgrade = noted.get(names.UPGRADE, asked)
    answered = noted.get(names.UPGRADE_ANSWERED, asked)
    made_from = template_hash(None if upgrade == _NONE else upgrade)
    ours = render(made_from)
    old = _kept(made_from, noted, ours)
    if asked not in (_NONE, answered) and _moves(asked, old, ours):
        made_from = template_hash(asked)
        return Made(made_from=made_from, bare=render(made_from), upgrade=asked, answered=asked)
    return Made(made_from=made_from, bare=old or ours, upgrade=upgrade, answered=asked)


def _annotations(deployment: Manifest | None) -> Manifest:
    """Those of a Deployment; none of one that is not there."""
    found: Manifest = ((deployment or {}).get("metadata") or {}).get("annotations") or {}
    return found


def _kept(made_from: str, noted: Manifest, ours: Manifest) -> Manifest | None:
    """What the Deployment was made with in place of `ours`, when the spec asks for no other."""
    if noted.get(names.TEMPLATE_HASH) != made_from:
        return None
    found = record.read(noted.get(names.TEMPLATE))
    return found if found is not None and record.harmless(found, ours) else None


def _moves(asked: str, old: Manifest | None, ours: Manifest) -> bool:
    """Whether an upgrade brings other pods."""
    forced = asked.endswith(names.UPGRADE_FORCED)
    return forced or old is None or fingerprint(old) != fingerprint(ours)
