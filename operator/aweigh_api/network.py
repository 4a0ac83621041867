"""Who may reach the pods: the part `networkPolicy` of an InferenceService."""

from ipaddress import ip_network
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from aweigh_api.fields import Labels, LabelValue, Name
from aweigh_api.schema import Rule, Schema


class LabelExpression(Schema):
    """A requirement on a label."""

    key: Name = Field(description="The label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="The relation.")
    values: Annotated[list[LabelValue], Field(max_length=32)] | None = Field(
        default=None, description="The values for In and NotIn."
    )


class LabelSelector(Schema):
    """Selects objects by their labels; an empty one selects all."""

    match_labels: Labels | None = Field(default=None, description="Labels that must be equal.")
    match_expressions: Annotated[list[LabelExpression], Field(max_length=16)] | None = Field(
        default=None, description="Requirements that must all hold."
    )


def _is_cidr(text: str) -> bool:
    try:
        return "/" in text and ip_network(text) is not None
    except ValueError:
        return False


def _contains(outer: str, inner: str) -> bool:
    one, other = ip_network(outer), ip_network(inner)
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]


class IPBlock(Schema):
    """A range of addresses."""

    cidr: Annotated[str, Field(max_length=64)] = Field(description="Such as 10.0.0.0/8.")
    except_: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=32)] | None = (
        Field(default=None, alias="except", description="Ranges inside cidr that are left out.")
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="isCIDR(self.cidr)",
            message="ipBlock.cidr must be a range of addresses such as 10.0.0.0/8",
            holds=lambda block: _is_cidr(block.cidr),
        ),
        Rule(
            cel="!has(self.except) || self.except.all(range, isCIDR(range) && "
            "cidr(self.cidr).containsCIDR(range))",
            message="each entry of ipBlock.except must be a range of addresses inside ipBlock.cidr",
            holds=lambda block: all(
                _is_cidr(each) and _contains(block.cidr, each) for each in block.except_ or []
            ),
        ),
    )


class Peer(Schema):
    """Who may connect: pods by labels, namespaces by labels, or addresses."""

    pod_selector: LabelSelector | None = Field(default=None, description="Pods with these labels.")
    namespace_selector: LabelSelector | None = Field(
        default=None, description="Namespaces with these labels."
    )
    ip_block: IPBlock | None = Field(default=None, description="A range of addresses.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",
            message="an entry of networkPolicy.ingressFrom needs either ipBlock, or podSelector "
            "and/or namespaceSelector",
            holds=lambda peer: (
                (peer.ip_block is not None)
                != (peer.pod_selector is not None or peer.namespace_selector is not None)
            ),
        ),
    )


class NetworkPolicy(Schema):
    """Who may reach the pods, and what they may reach."""

    enabled: bool = Field(default=True, description="Whether a NetworkPolicy is made.")
    ingress_from: Annotated[list[Peer], Field(max_length=32)] | None = Field(
        default=None,
        description="Who may call the API; absent: everybody in the cluster. As `from` in a "
        "NetworkPolicy.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.enabled || !has(self.ingressFrom)",
            message="networkPolicy.ingressFrom has no effect with networkPolicy.enabled false: "
            "remove one of the two",
            holds=lambda policy: policy.enabled or policy.ingress_from is None,
        ),
    )
