"""The condition RouterReady. Pure.

It is False while no router serves. One that is missing makes it no less True: the others answer.
"""

from aweigh_api.reasons import Reason
from aweigh_operator import troubles
from aweigh_operator.observe import Observed
from aweigh_operator.route import Route, known
from aweigh_operator.verdict import Verdict


def verdict(observed: Observed, route: Route) -> Verdict | None:
    """What is to be said of the routers; None: there shall be none."""
    if route.routers is None:
        return None
    if route.routers == 0:
        return Verdict("False", Reason.SUSPENDED, "no router runs, as no pod does")
    live = [pod for pod in observed.routers if pod.live]
    ready = sum(pod.ready for pod in live)
    found = filter(None, (troubles.of_pod(pod, observed) for pod in live))
    trouble = next(found, None)
    count = f"{ready} of {route.routers} routers serve"
    if trouble is not None:
        count += f": {trouble.message}"
    if not route.way.by_router:
        return _bypassed(observed, count)
    reason = Reason.PROGRESSING if trouble is None else trouble.reason
    if not ready:
        return Verdict("False", reason, count)
    return Verdict("True", Reason.AVAILABLE if ready >= route.routers else reason, count)


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
