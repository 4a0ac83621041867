"""Reconcile one InferenceService: observe, plan, act, ask its pods, tell. `plan` decides.

What is remembered between two runs only saves work or shortens a wait: after a restart of the
operator everything is found out again.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from aweigh_api import names
from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.routing import SECRET_FILE
from aweigh_operator import events, lasting, recent, replicas
from aweigh_operator.autoscalers import Autoscalers
from aweigh_operator.autoscaling import FRESH_S, looked
from aweigh_operator.cluster import ApiError, Cluster
from aweigh_operator.gauges import Readiness
from aweigh_operator.memory import Memory, Refused
from aweigh_operator.metrics import Metrics
from aweigh_operator.observe import MOUNTING, Key, Manifest, Observed, Pod, Refusal, Waiting, key_of
from aweigh_operator.places import BOUND, PLACES, WITH_PODS, kind_of, name_at
from aweigh_operator.plan import Apply, Delete, Plan
from aweigh_operator.readers import Readers
from aweigh_operator.scaling.decision import Decision
from aweigh_operator.settings import Settings
from aweigh_operator.store import Store
from aweigh_operator.tell import POLL_CONFLICT_S, Told, condition, served, tell

STUCK_AFTER_S = 4.0  # a container that is being created for longer may never be
MAX_STUCK = 3  # pods whose events are read at once
FIRST_RETRY_S = 5.0  # of a child that the API server refused
LONGEST_RETRY_S = 300.0
AUTOSCALERS_KNOWN_S = 60.0  # one request of each namespace in that time
logger = logging.getLogger(__name__)


class Reconciler:
    """Brings services, one at a time, closer to what they ask for."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        readers: Readers,
        recorder: events.Recorder,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._readers = readers
        self._recorder = recorder
        self._metrics = metrics
        self._settings = settings
        self._autoscalers = Autoscalers(cluster, lambda: time.monotonic())
        self._memories: dict[Key, Memory] = {}

    def forget(self) -> None:
        """What is remembered is of before another operator worked: find everything out again."""
        self._memories.clear()
        self.stand_by()

    def stand_by(self) -> None:
        """Listen to no router, as another may work; what is known stays, lest none has."""
        self._readers.routers.forget()

    async def reconcile(self, key: Key) -> float | None:
        """One step; gives the seconds after which to look again, None when the service is gone."""
        memory = self._remembered(key)
        body = self._store.body(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self._forget(key)
            return None
        observed, todo = await self._observe(key, body, memory)
        if not await self._mark(observed, todo):
            memory.marks_refused = True
            return 0.0  # they go all the same, as their ReplicaSet chooses
        done, failure = await self._act(key, todo, memory)
        if failure is not None and failure.namespace_leaves:
            return POLL_CONFLICT_S  # most likely the InferenceService goes too
        if done:
            there = {**observed.children, **self._store.children(key, PLACES)}
            lasted_s = memory.way_lasted_s(there, time.monotonic())
            observed = replace(observed, children=there, way_lasted_s=lasted_s)
        # What a pod tells changes no child, so a pod that does not answer delays none.
        observed = await self._ask(observed, todo, memory)
        refusals = {place: each.refusal for place, each in memory.refused.items()}
        step = memory.todo(observed, self._settings)
        told = tell(replace(observed, refusals=refusals), step, datetime.now(UTC))
        written = await self._report(key, body, told, done)
        if failure is not None:
            raise failure
        if (step.replicas, step.marks) != (todo.replicas, todo.marks):
            return 0.0  # the load asks for another number than what was just applied
        again_after_s = told.requeue_after_s if written else POLL_CONFLICT_S
        if self._asks_otherwise(key, body):
            again_after_s = 0.0  # what the answer to our own write has brought is no news later
        look_after_s = memory.autoscaling.again_s or again_after_s
        ask_after_s = memory.ask_again_s or again_after_s
        resync_after_s = max(0.1, memory.resync_at - time.monotonic())
        return min(again_after_s, look_after_s, ask_after_s, resync_after_s)

    def _remembered(self, key: Key) -> Memory:
        """What is remembered of a service; at a resync plan and refusals are forgotten."""
        memory = self._memories.setdefault(key, Memory(self._next_resync(), {}))
        if time.monotonic() >= memory.resync_at:
            memory.planned, memory.marks_refused = None, False
            memory.resync_at = self._next_resync()
        return memory

    async def _observe(self, key: Key, body: Manifest, memory: Memory) -> tuple[Observed, Plan]:
        """What is there, and what is to be done about it."""
        children, pods = self._store.children(key, PLACES), self._store.pods(key)
        fetcher, now_s = self._store.fetcher(key), time.monotonic()
        routers = self._store.routers(key)
        seen = (*pods, *routers) if fetcher is None else (*pods, *routers, fetcher)
        memory.since = lasting.since(memory.since, seen, now_s, served=served(body))
        observed = Observed(
            body=body,
            changed=self._store.changed(key),  # what comes while we wait is of the next look
            children=children,
            pods=pods,
            routers=routers,
            fetcher=fetcher,
            way_lasted_s=memory.way_lasted_s(children, now_s),
            lasting_s={sign: now_s - first_s for sign, first_s in memory.since.items()},
            decision=memory.autoscaling.decision,
            cheapest=memory.autoscaling.cheapest,
            autoscaler=memory.autoscaler,
            marks_refused=memory.marks_refused,
        )
        todo = memory.todo(observed, self._settings)
        age_s = _autoscalers_age_s(observed, todo)
        rival = await self._autoscalers.rival(key, todo.scaling, age_s, memory.autoscaler)
        memory.autoscaler, memory.ask_again_s = rival.found, rival.ask_again_s
        unknown = rival.ask_again_s is not None
        if unknown or rival.found != observed.autoscaler:
            observed = replace(observed, autoscaler=rival.found, autoscalers_unknown=unknown)
            todo = memory.todo(observed, self._settings)
        # The watches tell only of objects with our label, and a moment late: before a child is
        # created, look whether its name is really free.
        places = [each.place for each in todo.actions if _creates(each)]
        found = await asyncio.gather(*(self._read(place, key) for place in places))
        held = {place: each for place, each in zip(places, found, strict=True) if each is not None}
        if not held:
            return observed, todo
        observed = replace(observed, children={**children, **held})
        return observed, memory.todo(observed, self._settings)

    async def _read(self, place: str, key: Key) -> Manifest | None:
        return await self._cluster.read(kind_of(place), _key_at(place, key))

    async def _mark(self, observed: Observed, todo: Plan) -> bool:
        """Say which pods go: their watch tells when it is there, and then they may."""
        namespace = observed.body["metadata"]["namespace"]
        try:
            await asyncio.gather(*(self._cluster.mark(namespace, each) for each in todo.marks))
        except ApiError as error:
            if error.transient:
                raise
            logger.warning("%s", error)
            return False
        return True

    async def _ask(self, observed: Observed, todo: Plan, memory: Memory) -> Observed:
        """Add what the pods tell, what is told about them, and how many the load asks for."""
        pods = observed.pods
        asked = pods if observed.fetcher is None else (*pods, observed.fetcher)
        fresh_s = FRESH_S if todo.scaling is not None else None
        states, told, stuck = await asyncio.gather(
            self._readers.pods.read(asked, fresh_s),
            self._readers.routers.read(observed.routers, fresh_s),
            self._stuck(observed, (*asked, *observed.routers)),
        )
        now_s = time.monotonic()
        memory.window = recent.remembered(memory.window, pods, states, now_s)
        counts = recent.counts(memory.window, pods, now_s)
        observed = replace(
            observed,
            states=states,
            router_states=told,
            counts=counts,
            stuck=stuck,
        )
        if _lacks_secret(observed, todo):
            memory.secret = False
            await self._secret(todo, memory)
        before = memory.autoscaling
        found = looked(before, observed, todo, datetime.now(UTC), now_s)
        key, sleeps = key_of(observed.body), todo.replicas == 0 and found.decision is not None
        self._readers.routers.listen(key, observed.routers if sleeps else ())
        self._tell_of(key, before.decision, found.decision)
        memory.autoscaling = found
        return replace(observed, decision=found.decision, cheapest=found.cheapest)

    def _tell_of(self, key: Key, before: Decision | None, decision: Decision | None) -> None:
        if decision is None:
            self._metrics.services.desired(key, None)
        elif decision is not before:
            self._metrics.decided(key, decision)
            changed = before is None or before.replicas != decision.replicas
            level = logging.INFO if changed else logging.DEBUG
            logger.log(level, "%s: %s (%s)", key, decision.reason, decision.sentence)

    async def _stuck(self, observed: Observed, pods: Iterable[Pod]) -> dict[str, Waiting]:
        waiting = [pod for pod in pods if observed.lasted_s(pod, MOUNTING) > STUCK_AFTER_S]
        found: dict[str, Waiting] = {}
        for pod in waiting[:MAX_STUCK]:
            try:
                why = await self._cluster.stuck(pod.namespace, pod.name)
            except ApiError as error:
                logger.warning("%s", error)
                continue
            if why is not None:
                found[pod.uid] = why
        return found

    async def _act(
        self, key: Key, todo: Plan, memory: Memory
    ) -> tuple[list[Apply | Delete], ApiError | None]:
        """Do it; gives what was done, and the failure after which it makes no sense to go on."""
        places = {each.place for each in todo.actions}
        memory.refused = {place: each for place, each in memory.refused.items() if place in places}
        done: list[Apply | Delete] = []
        # The pods come last, and only when all else stands: without the NetworkPolicy that was
        # asked for they would serve everybody.
        first = set(PLACES) - {*BOUND, *WITH_PODS}
        for those in (first, BOUND, WITH_PODS):
            last = those is WITH_PODS
            if last and set(memory.refused) - set(WITH_PODS):
                break
            stage = [each for each in todo.actions if each.place in those]
            if last and stage and (failure := await self._secret(todo, memory)) is not None:
                return done, failure if failure.transient else None
            results = await asyncio.gather(
                *(self._try(key, each, memory) for each in stage), return_exceptions=True
            )
            done += [each for each, result in zip(stage, results, strict=True) if result is True]
            failure = _first_failure(results)
            if failure is not None:
                return done, failure
        return done, None

    async def _try(self, key: Key, action: Apply | Delete, memory: Memory) -> bool:
        kind = kind_of(action.place)
        if isinstance(action, Delete):
            await self._cluster.delete(kind, _key_at(action.place, key), action.uid)
            self._metrics.wrote(kind, "delete")
            return True
        before = memory.refused.get(action.place)
        same = before is not None and before.manifest == action.manifest
        if before is not None and same and time.monotonic() < before.retry_at:
            return False
        try:
            # What appeared since we looked is somebody else's: a conflict, and the next look tells.
            stored = await self._cluster.apply(action.manifest, force=not action.creates)
        except ApiError as error:
            if error.transient or error.namespace_leaves:
                raise
            logger.warning("%s", error)
            pause_s = before.pause_s * 2 if before is not None and same else FIRST_RETRY_S
            pause_s = min(pause_s, LONGEST_RETRY_S)
            memory.refused[action.place] = _refused(action.manifest, error, pause_s)
            return False
        self._store.put(kind, stored)
        memory.refused.pop(action.place, None)
        self._metrics.wrote(kind, "create" if action.creates else "update")
        return True

    async def _secret(self, todo: Plan, memory: Memory) -> ApiError | None:
        """Make what pods and routers share, unless it is there; why it cannot be made."""
        if memory.secret or todo.secret is None:
            return None
        drawn = {SECRET_FILE: secrets.token_hex(32)}
        try:
            made = await self._cluster.create_secret({**todo.secret, "stringData": drawn})
        except ApiError as error:
            if not error.transient:
                logger.warning("%s", error)
                memory.refused["Secret"] = _refused(todo.secret, error, FIRST_RETRY_S)
            return error
        if made:
            self._metrics.wrote("Secret", "create")
        memory.secret = True
        return None

    async def _report(
        self, key: Key, body: Manifest, told: Told, done: Sequence[Apply | Delete]
    ) -> bool:
        """Write status and events; False when there was nothing to write them on."""
        if told.changed:
            stored = await self._cluster.write_status(body, told.status)
            if stored is None:
                await self._drop_if_gone(key, body["metadata"]["uid"])
                return False
            self._store.put(names.KIND, stored)
        ready = condition(told.status, ConditionType.READY)
        before = condition(body.get("status") or {}, ConditionType.READY)
        pods = condition(told.status, ConditionType.WORKLOAD_READY)
        self._metrics.services.ready(key, _readiness(ready, pods, told.missing))
        scaling = condition(told.status, ConditionType.SCALING_ACTIVE)
        self._metrics.services.scaled(key, scaling["reason"])
        news = [
            *events.of_actions(done),
            *events.of_transitions(told.transitions),
            *events.of_clamp(told.clamped),
            *events.of_scaling(told.scaled),
        ]
        await self._recorder.tell(body, news)
        if done or (ready["reason"], ready["message"]) != (before["reason"], before["message"]):
            deeds = ", ".join(f"{type(each).__name__} {each.place}" for each in done)
            logger.info(
                "%s: %s (%s)%s", key, ready["reason"], ready["message"], deeds and f"; {deeds}"
            )
        return True

    def _asks_otherwise(self, key: Key, body: Manifest) -> bool:
        """Whether the spec is another by now."""
        newest = self._store.body(key)
        return newest is not None and (
            newest["metadata"].get("generation") != body["metadata"].get("generation")
        )

    async def _drop_if_gone(self, key: Key, uid: str) -> None:
        live = await self._cluster.read(names.KIND, key)
        if live is None or live["metadata"]["uid"] != uid:
            self._store.drop(names.KIND, key, uid)

    def _forget(self, key: Key) -> None:
        self._memories.pop(key, None)
        self._readers.routers.listen(key, ())
        self._metrics.services.forget(key)

    def _next_resync(self) -> float:
        period_s = self._settings.resync_seconds
        return time.monotonic() + period_s * random.uniform(0.8, 1.2)


def _autoscalers_age_s(observed: Observed, todo: Plan) -> float | None:
    """How old what is known of autoscalers may be; None: nobody needs to know."""
    if replicas.current(observed) not in (None, todo.replicas):
        return 0.0
    scaled = todo.scaling is not None or observed.autoscaler is not None
    return AUTOSCALERS_KNOWN_S if scaled else None


def _readiness(ready: Manifest, pods: Manifest, missing: int) -> Readiness:
    """What these conditions say; pods that should serve and cannot count as one at least."""
    on_its_way = pods["reason"] in (Reason.PROGRESSING, Reason.DOWNLOADING)
    return Readiness(
        ready=ready["status"],
        workload_ready=pods["status"],
        missing=missing if on_its_way else max(1, missing),
        suspended=ready["reason"] == Reason.SUSPENDED,
    )


def _lacks_secret(observed: Observed, todo: Plan) -> bool:
    """Whether pods wait for what somebody has deleted."""
    name = "" if todo.secret is None else todo.secret["metadata"]["name"]
    return bool(name) and any(name in each.message for each in observed.stuck.values())


def _key_at(place: str, key: Key) -> Key:
    return Key(key.namespace, name_at(place, key.name))


def _creates(action: Apply | Delete) -> bool:
    return isinstance(action, Apply) and action.creates


def _first_failure(results: Iterable[bool | BaseException]) -> ApiError | None:
    """Raises what is no refusal."""
    failures = [each for each in results if isinstance(each, BaseException)]
    for each in failures:
        if not isinstance(each, ApiError):
            raise each
    return next((each for each in failures if isinstance(each, ApiError)), None)


def _refused(manifest: Manifest, error: ApiError, pause_s: float) -> Refused:
    return Refused(
        manifest=manifest,
        refusal=Refusal(Reason.OBJECT_REFUSED, str(error)),
        pause_s=pause_s,
        retry_at=time.monotonic() + pause_s,
    )
