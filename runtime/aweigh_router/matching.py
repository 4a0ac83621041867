"""Who of those that wait goes where, now. Pure.

A request that no pod can begin yet, because it wants room for many answers or a pod for itself,
has a pod held for it: nobody else goes there, while all others go on elsewhere. For them half of
the pods are left, however many wait for one of their own.
"""

from collections.abc import Collection, Sequence

from aweigh_router import choice, rooms
from aweigh_router.calls import Call
from aweigh_router.choice import Order
from aweigh_router.rooms import Pod


class RevisionGone(Exception):
    """Pods serve, but not the model that has begun this stream."""


class Round:
    """One look at the line. Requests are placed in the order of their turns."""

    def __init__(
        self, taking: Sequence[Pod], now_s: float, models: Collection[str | None] = (None,)
    ) -> None:
        """`taking` are the pods that serve; `models` those that are asked for, by their names."""
        self._now_s = now_s
        self._pods = {pod.found.name: pod for pod in taking}
        self._loads = {pod.found.name: pod.load for pod in taking}
        self._models = {pod.model for pod in taking}
        self._free = {
            pod.found.name
            for pod in taking
            if pod.fits(1, now_s) and any(pod.may_serve(model) for model in models)
        }
        self._spare = max(1, len(self._pods) // 2) - sum(pod.alone for pod in taking)

    @property
    def over(self) -> bool:
        """Whether nobody else can be placed who needs room."""
        return not self._free

    def place(self, call: Call, order: Order) -> Pod | None:
        """Send it to a pod, if one can begin it.

        Args:
            call: whose turn it is.
            order: in which it would have all pods that there are.

        Raises:
            RevisionGone: it has begun with a model that no pod serves any more.
        """
        loads = self._able(call)
        if not call.num_answers:
            name = choice.least_loaded(loads, lambda each: self._answers(call, each))
        elif call.alone:
            name = self._idle_or_held(call, loads, order)
        else:
            name = self._fitting(call, loads, order)
            if name is None and call.num_answers > 1:
                self._hold(call, loads, order)
        return None if name is None else self._begin(call, self._pods[name])

    def _able(self, call: Call) -> dict[str, int]:
        """Loads of the pods that could have it. One that it has failed on, if there is no other.

        What runs alone may go to any: many may have to, and it has failed on most. So may what was
        beside a death where the others are full, which may be for long.
        """
        model = call.asked.model
        all_may = model is None or self._models <= {None, model}
        if all_may and not call.begun and not call.avoid:
            return self._loads
        names = {name for name, pod in self._pods.items() if pod.may_serve(model)}
        if call.begun and names:  # else one of its name may come back
            names = {name for name in names if self._pods[name].revision == call.revision}
            if not names:
                raise RevisionGone
        rather = names - call.avoid or names
        if call.alone or (call.suspect and not rather & self._free):
            rather = names
        return {name: self._loads[name] for name in rather}

    def _answers(self, call: Call, name: str) -> bool:
        """What takes no room asks a full pod, too, but not at once again one that has failed."""
        return name not in call.avoid or self._now_s >= call.rests_until_s

    def _fitting(self, call: Call, loads: dict[str, int], order: Order) -> str | None:
        if call.suspect:
            return self._away_from_suspects(call, loads, order)
        return choice.pick(order, loads, lambda each: self._fits(call, each))

    def _fits(self, call: Call, name: str) -> bool:
        return name in self._free and self._pods[name].fits(call.num_answers, self._now_s)

    def _away_from_suspects(self, call: Call, loads: dict[str, int], order: Order) -> str | None:
        """Requests of which one may kill are spread: the fewer of them die again with it."""
        fitting = [name for name in order.names if name in loads and self._fits(call, name)]
        return min(fitting, key=lambda name: self._pods[name].suspects, default=None)

    def _idle_or_held(self, call: Call, loads: dict[str, int], order: Order) -> str | None:
        for name in order.names:
            if self._spare > 0 and name in loads and name in self._free and self._pods[name].idle:
                self._pods[name].alone = True
                self._spare -= 1
                return name
        self._hold(call, loads, order)
        return None

    def _hold(self, call: Call, loads: dict[str, int], order: Order) -> None:
        """The least loaded is free first; then it stays with that."""
        if self._spare <= 0:
            call.hold(None)
            return
        if call.held not in loads or self._pods[call.held].alone:
            open = [name for name in order.names if name in loads and name in self._free]
            call.hold(min(open, key=loads.__getitem__, default=None))
        if call.held is not None:
            self._free.discard(call.held)
            self._spare -= 1

    def _begin(self, call: Call, pod: Pod) -> Pod:
        rooms.begin(pod, call)
        self._loads[pod.found.name] = pod.load
        if not pod.fits(1, self._now_s):
            self._free.discard(pod.found.name)
        return pod
