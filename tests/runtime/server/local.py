"""Both ports of a server within the test's own process, with limits of the test's choice."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aweigh_http.connection import Limits
from aweigh_runtime.config import Config
from aweigh_runtime.engine.client import EngineClient
from aweigh_runtime.server.ports import Ports
from aweigh_runtime.server.service import Service
from tests.runtime.serving import MODEL


@dataclass
class Local:
    """The server's parts."""

    service: Service
    ports: Ports

    @property
    def url(self) -> str:
        return self.ports.url.removesuffix("/v1")

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@asynccontextmanager
async def loading(
    directory: Path, limits: Limits | None = None, **settings: Any
) -> AsyncIterator[Local]:
    """A server whose engine has not got anywhere, and never will."""
    config = Config(
        uri="builtin://none",
        model_name=MODEL,
        cache_dir=directory,
        device="cpu",
        port=0,
        admin_port=0,
        **settings,
    )
    engine = await EngineClient.start(config, lambda loading: None)
    try:
        service = Service(config, engine)
        async with Ports(config, service, limits) as ports:
            yield Local(service, ports)
    finally:
        await engine.close()


@asynccontextmanager
async def ready(
    directory: Path, limits: Limits | None = None, **settings: Any
) -> AsyncIterator[Local]:
    """A server that answers."""
    config = Config(
        uri="builtin://helmsman-8m",
        model_name=MODEL,
        cache_dir=directory,
        device="cpu",
        dtype="fp32",
        port=0,
        admin_port=0,
        **settings,
    )
    engine = await EngineClient.start(config, lambda loading: None)
    watching = asyncio.create_task(engine.watch())
    try:
        service = Service(config, engine)
        async with Ports(config, service, limits) as ports:
            await service.load()
            yield Local(service, ports)
        await service.close()
    finally:
        await engine.close()
        await watching


def secret(directory: Path, **keys: str) -> Path:
    """A directory as the kubelet mounts a Secret: visible names link into one that is swapped."""
    directory.mkdir(exist_ok=True)
    version = directory / f"..{time.monotonic_ns()}"
    version.mkdir()
    for name, key in keys.items():
        (version / name).write_text(key)
    link = directory / "..link"
    link.symlink_to(version.name)
    link.rename(directory / "..data")
    for name in keys:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    for old in directory.iterdir():
        if not old.name.startswith(".") and old.name not in keys:
            old.unlink()
    return directory
