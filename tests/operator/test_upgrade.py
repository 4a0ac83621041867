"""An upgrade is answered by the operator that works, once what it answers has been applied."""

import pytest

from aweigh_api import names
from aweigh_operator.cluster import ApiError
from aweigh_operator.observe import Manifest
from aweigh_operator.places import ROUTER_DEPLOYMENT
from tests.operator import fakes
from tests.operator.fakes import FakeCluster, Operator, at

CACHED = {"claim": "downloads", "prefetch": True}


async def serving(**spec: object) -> Operator:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 2, **spec}))
    operator = Operator(cluster)
    await operator.settle()
    cluster.run_pods()
    await operator.settle()
    return operator


async def upgraded(operator: Operator, upgrade: str) -> None:
    """Ask this operator for it."""
    asked = {names.UPGRADE: upgrade}
    operator.cluster.edit(names.KIND, lambda body: body["metadata"].update(annotations=asked))
    await operator.settle()


def notes(operator: Operator, place: str = "Deployment") -> tuple[str, str]:
    """The upgrade that the pods were made with, and the one that was answered last."""
    annotations = operator.cluster.objects[at(place)]["metadata"]["annotations"]
    return annotations[names.UPGRADE], annotations[names.UPGRADE_ANSWERED]


def template(operator: Operator, place: str = "Deployment") -> Manifest:
    found: Manifest = operator.cluster.objects[at(place)]["spec"]["template"]
    return found


async def test_pods_and_routers_that_are_current_stay_and_the_answer_says_so() -> None:
    operator = await serving()
    before = [template(operator, place) for place in ("Deployment", ROUTER_DEPLOYMENT)]
    await upgraded(operator, "1")
    assert [notes(operator, place) for place in ("Deployment", ROUTER_DEPLOYMENT)] == [
        ("none", "1")
    ] * 2
    assert [template(operator, place) for place in ("Deployment", ROUTER_DEPLOYMENT)] == before


async def test_only_the_part_that_is_outdated_moves() -> None:
    operator = Operator((await serving()).cluster, image="new")
    routers = template(operator, ROUTER_DEPLOYMENT)
    await upgraded(operator, "1")
    assert notes(operator) == ("1", "1")
    assert template(operator)["spec"]["containers"][0]["image"] == "new"
    assert (notes(operator, ROUTER_DEPLOYMENT), template(operator, ROUTER_DEPLOYMENT)) == (
        ("none", "1"),
        routers,
    )


async def test_what_one_operator_has_answered_the_next_one_takes_up_only_when_asked_again() -> None:
    old = await serving()
    await upgraded(old, "1")
    new = Operator(old.cluster, image="new")
    before = template(new)
    await new.settle()
    assert (notes(new), template(new)) == (("none", "1"), before)
    await upgraded(new, "2")
    assert notes(new) == ("2", "2")


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy"])
async def test_an_upgrade_is_not_answered_while_what_pods_need_is_refused(kind: str) -> None:
    operator = await serving()
    operator.cluster.refuse = lambda manifest: (
        ApiError(f"apply {kind}", 422, "no") if manifest["kind"] == kind else None
    )
    operator.cluster.edit(names.KIND, lambda body: body["spec"].update(networkPolicy={}))
    operator.cluster.edit("NetworkPolicy", lambda policy: policy["spec"].update(policyTypes=[]))
    await upgraded(operator, "1")
    assert notes(operator) == ("none", "none")


async def test_an_upgrade_is_not_answered_while_a_new_model_is_fetched() -> None:
    operator = await serving(model={"uri": "hf://acme/navigator", "cache": CACHED})
    operator.cluster.jobs_end = False
    another = {"uri": "hf://acme/admiral", "cache": CACHED}
    operator.cluster.edit(names.KIND, lambda body: body["spec"].update(model=another))
    await upgraded(operator, "1")
    assert notes(operator) == ("none", "none")
