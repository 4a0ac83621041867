"""Compares what the watches have told with what is there, by listings of nothing but uids.

At the start, until they have told of everything: who looks earlier takes for missing what is there.
Later, for what is gone though no watch has told so: one that was cut for long misses deletions.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence

from aweigh_operator.cluster import RESOURCES, ApiError, Cluster
from aweigh_operator.observe import Key
from aweigh_operator.store import Store

KNOWN_S = 60.0  # for the watches to tell of everything
LISTED_S = 5.0  # for which a listing holds
_POLL_S = 0.05
logger = logging.getLogger(__name__)


async def until_known(cluster: Cluster, store: Store, namespaces: Sequence[str]) -> None:
    """Wait until the store holds all that is there; not for ever, because one cannot be read."""
    deadline_s = time.monotonic() + KNOWN_S
    for kind in RESOURCES:
        while time.monotonic() < deadline_s:
            try:
                missing = await _missing(cluster, store, namespaces, kind)
            except ApiError as error:
                logger.warning("%s; trying again", error)
                await asyncio.sleep(LISTED_S)
                continue
            if not missing:
                break
        else:
            logger.warning("not every %s is known after %.0f s; going on", kind, KNOWN_S)


async def _missing(
    cluster: Cluster, store: Store, namespaces: Sequence[str], kind: str
) -> set[str]:
    """What is there and has not been told of, after a while; it may be gone by then."""
    missing = await _there(cluster, namespaces, kind) - store.uids(kind).keys()
    until_s = time.monotonic() + LISTED_S
    while missing and time.monotonic() < until_s:
        await asyncio.sleep(_POLL_S)
        missing -= store.uids(kind).keys()
    return missing


async def _there(cluster: Cluster, namespaces: Sequence[str], kind: str) -> set[str]:
    found = [await cluster.uids(kind, namespace) for namespace in namespaces or (None,)]
    return set[str]().union(*found)


async def sweep(
    cluster: Cluster, store: Store, namespaces: Sequence[str], changed: Callable[[Key], None]
) -> None:
    """Drop what is gone from the store, and say of which services.

    Args:
        cluster: is asked what is there, once for each kind.
        store: what was told.
        namespaces: where to look; none: in all.
        changed: is told the service of each object that is gone.
    """
    for kind in RESOURCES:
        known = store.uids(kind)  # before the question: what comes later is not missing
        for uid in known.keys() - await _there(cluster, namespaces, kind):
            store.drop(kind, known[uid], uid)
            changed(known[uid])


async def keep_sweeping(
    cluster: Cluster,
    store: Store,
    namespaces: Sequence[str],
    changed: Callable[[Key], None],
    period_s: float,
) -> None:
    """Sweep again and again, for ever; `period_s` is the mean time in between."""
    while True:
        await asyncio.sleep(period_s * random.uniform(0.8, 1.2))
        try:
            await sweep(cluster, store, namespaces, changed)
        except ApiError as error:
            logger.warning("%s; what is gone unseen is looked for later", error)
