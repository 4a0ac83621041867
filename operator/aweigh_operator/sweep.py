"""Compares what the watches have told with what is there, by listings of nothing but uids.

At the start, until they have told of everything: who looks earlier takes for missing what is there.
Later, for what is gone though no watch has told so: one that begins anew has missed deletions.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from aweigh_operator.cluster import ApiError, Cluster
from aweigh_operator.observe import Key
from aweigh_operator.resources import RESOURCES
from aweigh_operator.store import Store

KNOWN_S = 60.0  # for the watches to tell of everything
LISTED_S = 5.0  # for which a listing holds
_POLL_S = 0.05
logger = logging.getLogger(__name__)


async def until_known(cluster: Cluster, store: Store, namespaces: Sequence[str]) -> None:
    """Wait until the store holds all that is there; not for ever, because one cannot be read."""
    deadline_s = time.monotonic() + KNOWN_S
    for kind in RESOURCES:
        while not await _is_known(cluster, store, namespaces, kind):
            if time.monotonic() >= deadline_s:
                logger.warning("not every %s is known after %.0f s; going on", kind, KNOWN_S)
                break


async def _is_known(cluster: Cluster, store: Store, namespaces: Sequence[str], kind: str) -> bool:
    """Whether all that is there has been told of, after a while; some may be gone by then."""
    try:
        missing = await _there(cluster, namespaces, kind) - store.uids(kind).keys()
    except ApiError as error:
        logger.warning("%s; trying again", error)
        await asyncio.sleep(LISTED_S)
        return False
    until_s = time.monotonic() + LISTED_S
    while missing and time.monotonic() < until_s:
        await asyncio.sleep(_POLL_S)
        missing -= store.uids(kind).keys()
    return not missing


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
            for key in known[uid]:
                store.drop(kind, key, uid)
                changed(key)


async def keep_sweeping(
    cluster: Cluster,
    store: Store,
    namespaces: Sequence[str],
    changed: Callable[[Key], None],
    relisted: asyncio.Event,
    period_s: float,
) -> None:
    """Sweep again and again, for ever.

    Args:
        cluster: as for `sweep`, like what follows.
        store: see there.
        namespaces: see there.
        changed: see there.
        relisted: set when a watch has begun anew, and has told nothing of deletions before.
        period_s: the mean time in between without that.
    """
    relisted.clear()  # the watches had to begin
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(relisted.wait(), period_s * random.uniform(0.8, 1.2))
            await asyncio.sleep(LISTED_S)  # other watches, too
        relisted.clear()
        try:
            await sweep(cluster, store, namespaces, changed)
        except ApiError as error:
            logger.warning("%s; what is gone unseen is looked for later", error)
