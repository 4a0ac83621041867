"""The condition RouterReady. Pure.

It is False while no router serves. One that is missing makes it no less True: the others answer,
as those do that a rollout is about to replace. The reason says what is not yet as it should be.
"""

from aweigh_api.reasons import Reason
from aweigh_operator import troubles
from aweigh_operator.observe import Observed
from aweigh_operator.route import Route, known
from aweigh_operator.troubles import Trouble
from aweigh_operator.verdict import Verdict


def verdict(observed: Observed, route: Route) -> Verdict | None:
    """What is to be said of the routers; None: there shall be none."""
    if route.routers is None:
        return None
    if route.routers == 0:
        return Verdict("False", Reason.SUSPENDED, "no router runs, as no pod does")
    live = observed.live_routers
    serving = min(sum(pod.ready for pod in live), route.routers)  # a rollout has one more
    old = any(pod.template_hash != route.made_from for pod in live)
    trouble = troubles.of_routers(observed, route.made_from)
    count = f"{serving} of {route.routers} routers serve"
    if trouble is not None:
        count += f": {trouble.message}"
    elif old and serving:
        count += "; a rollout replaces them"
    if not route.way.by_router:
        return _bypassed(observed, count)
    reason = _reason(trouble, done=serving == route.routers and not old)
    if reason is Reason.AVAILABLE and (blind := _blind(observed)):
        return Verdict("True", Reason.SECRET_DIFFERS, f"{count}, but {blind}")
    return Verdict("True" if serving else "False", reason, count)


def _reason(trouble: Trouble | None, *, done: bool) -> Reason:
    if trouble is not None:
        return trouble.reason
    return Reason.AVAILABLE if done else Reason.PROGRESSING


def _blind(observed: Observed) -> str | None:
    """That pods hold another secret than the routers, as after somebody has deleted it."""
    told = [(observed.router_states.get(pod.uid), pod.name) for pod in observed.live_routers]
    numbers = [(state.blind_pods or 0, name) for state, name in told if state is not None]
    number, name = max(numbers, default=(0, ""))
    if not number:
        return None
    what = "1 pod takes" if number == 1 else f"{number} pods take"
    return (
        f"{what} {name} for a client, as they hold different secrets: such a pod's streams end "
        "with it. A secret that was made anew is with all of them within minutes; after that "
        "delete the pods that the router's log names"
    )


def _bypassed(observed: Observed, count: str) -> Verdict:
    """Requests are answered, so nothing is False."""
    sentence = f"requests go straight to the pods until all routers do: {count}"
    if not known(observed):
        name = observed.body["metadata"]["name"]
        sentence = (
            "requests go straight to the pods, which an older version has made and which know no "
            f"router: `kubectl aweigh upgrade {name}` replaces them"
        )
    return Verdict("True", Reason.BYPASSED, sentence)
