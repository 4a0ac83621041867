"""The operator's probes and metrics, on two ports.

Alive: the event loop turns (or nothing would answer), no key has been at a worker for
minutes, and the Lease is kept, if there is one.
Ready: the API server lets the operator see all that it works on, and it is not stopping.
"""

from collections.abc import Callable

from aiohttp import web

from aweigh_operator.metrics import Metrics

LONGEST_WORK_S = 300.0


class Health:
    """Serves /healthz and /readyz on one port, /metrics on another."""

    def __init__(self, metrics: Metrics, trouble: Callable[[], str | None]) -> None:
        """`trouble` says why the operator is not alive."""
        self._metrics = metrics
        self._trouble = trouble
        self._runners: list[web.AppRunner] = []
        self.ready = False

    async def start(self, probe_port: int, metrics_port: int) -> None:
        """Listen."""
        probes, metrics = web.Application(), web.Application()
        probes.router.add_get("/healthz", self._healthz)
        probes.router.add_get("/readyz", self._readyz)
        metrics.router.add_get("/metrics", self._metrics_page)
        for app, port in ((probes, probe_port), (metrics, metrics_port)):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            self._runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "0.0.0.0", port).start()

    async def stop(self) -> None:
        """Close both ports."""
        for runner in self._runners:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        trouble = self._trouble()
        return web.Response(text=trouble or "ok", status=503 if trouble else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        text = "ok" if self.ready else "not watching the API server"
        return web.Response(text=text, status=200 if self.ready else 503)

    async def _metrics_page(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._metrics.text(), headers=headers)
