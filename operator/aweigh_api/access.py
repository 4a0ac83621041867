"""Who may use the API and how it is reached: the parts `auth` and `tls` of an InferenceService.

What stands in a Secret is mounted into the pods; the operator never reads it.
"""

from pydantic import Field

from aweigh_api.fields import Name
from aweigh_api.schema import Schema


class SecretRef(Schema):
    """A Secret in the InferenceService's namespace."""

    name: Name = Field(description="Name of the Secret.")


class ApiKeys(Schema):
    """The keys that open the API."""

    secret_ref: SecretRef = Field(
        description="Secret in which each entry holds one API key. Pods follow its changes without "
        "a restart, within about a minute."
    )


class Auth(Schema):
    """Who may use the API."""

    api_keys: ApiKeys = Field(description="The keys that open the API.")


class Tls(Schema):
    """How the API is encrypted."""

    secret_ref: SecretRef = Field(
        description="Secret of type kubernetes.io/tls: tls.crt has the certificate with its chain, "
        "tls.key the private key."
    )
