"""Finds what is gone though no watch has told so: one that was cut for long misses deletions."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from aweigh_operator.cluster import RESOURCES, ApiError, Cluster
from aweigh_operator.observe import Key
from aweigh_operator.store import Store

logger = logging.getLogger(__name__)


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
        there = [await cluster.uids(kind, namespace) for namespace in namespaces or (None,)]
        for uid in known.keys() - set[str]().union(*there):
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
