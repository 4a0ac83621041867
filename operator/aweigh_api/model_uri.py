"""Where weights may be: the forms of a URI, for models and drafts alike."""

import re

from aweigh_api.schema import Rule

URI_SCHEMES = ("builtin", "file", "pvc", "hf", "s3", "oci")
FETCHED = ("hf://", "s3://", "oci://")  # sources that are downloaded; a Secret may open them
FORMS = (
    "builtin://NAME (shipped with the runtime), file:///PATH (in the runtime's container), "
    "pvc://CLAIM/PATH (a PersistentVolumeClaim of this namespace), hf://ORGANISATION/MODEL (a "
    "Hugging Face repository), s3://BUCKET/PREFIX (an object store) or "
    "oci://REGISTRY/REPOSITORY[:TAG|@DIGEST] (a registry)"
)
REVISION = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"
_URI = (
    r"^(builtin://[a-z0-9][a-z0-9.-]*|file:///.+|pvc://[a-z0-9][a-z0-9.-]*(/.*)?"
    r"|hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
    r"|s3://[a-z0-9][a-z0-9.-]*[a-z0-9]/.+"
    r"|oci://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)+"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})?)$"
)


def rules(part: str, what: str) -> tuple[Rule, ...]:
    """What `uri` and `revision` of a part of the spec must be; `what` they belong to."""
    return (
        Rule(
            cel=f"self.uri.matches(r'{_URI}')",
            message=f"{part}.uri must be builtin://NAME, file:///PATH, pvc://CLAIM/PATH, "
            "hf://ORGANISATION/MODEL, s3://BUCKET/PREFIX or "
            "oci://REGISTRY/REPOSITORY[:TAG|@DIGEST]",
            holds=lambda source: re.fullmatch(_URI, source.uri) is not None,
            given="uri",
        ),
        Rule(
            cel="!self.uri.split('/').exists(part, part == '..')",
            message=f"{part}.uri must not contain '..': give the path itself",
            holds=lambda source: ".." not in source.uri.split("/"),
            given="uri",
        ),
        Rule(
            cel="!has(self.revision) || self.uri.startsWith('hf://')",
            message=f"{part}.revision is only for hf:// {what}: remove it, or give a uri that "
            "begins with hf://",
            holds=lambda source: source.revision is None or source.uri.startswith("hf://"),
            given="uri",
        ),
    )


def claim_of(uri: str) -> str | None:
    """The PersistentVolumeClaim that a pvc:// URI names."""
    return uri.removeprefix("pvc://").split("/")[0] if uri.startswith("pvc://") else None
