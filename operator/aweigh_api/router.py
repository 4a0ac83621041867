"""What stands between clients and pods: the part `router` of an InferenceService."""

from pydantic import Field

from aweigh_api.schema import Schema

DEFAULT_REPLICAS = 2  # one may go, with its node or for a newer one


class Router(Schema):
    """Small pods that hold requests until a pod has room, and choose it by what it has cached."""

    replicas: int = Field(
        default=DEFAULT_REPLICAS,
        ge=0,
        le=32,
        description="Routers that run side by side. 0: requests go straight to the pods.",
    )
