"""What is measured: a server that is started for it, or an endpoint that runs already."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aweigh_bench.endpoint import PROBE_WORDS, Asking, Endpoint
from aweigh_bench.failures import BenchFailure, Impossible
from aweigh_bench.load import together
from aweigh_bench.measures import Measures, measure
from aweigh_bench.own_server import OwnServer, own_server
from aweigh_bench.shapes import shape_directory
from aweigh_bench.traffic import Ids, Length, Query, random_lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Which model, and how it is served."""

    model: str | None = None  # URI; None: a shape or base_url is measured
    shape: str | None = None  # a model with random weights
    base_url: str | None = None
    api_key: str | None = None
    flags: tuple[str, ...] = ()  # of `aweigh serve`
    cache_dir: Path | None = None  # of downloads
    threads: int | None = None
    vocabulary: int = 8000
    seed: int = 0


@dataclass(slots=True)
class Subject:
    """A served model under test. Every prompt that `random` sends is new to it."""

    endpoint: Endpoint
    asking: Asking
    max_model_len: int | None
    ids: Ids
    server: OwnServer | None

    @property
    def own(self) -> OwnServer:
        """The server that was started here."""
        if self.server is None:
            raise Impossible("this needs a server of its own; give a MODEL, not --base-url")
        return self.server

    async def random(self, count: int, prompt: Length, answer: int, concurrency: int) -> Measures:
        """Prompts that share nothing, each answered with exactly `answer` tokens."""
        self.expect_fitting(prompt[1] + answer)
        queries = list(random_lengths(self.ids, count, prompt, (answer, answer)))
        return await self.send(queries, concurrency)

    async def send(self, queries: list[Query], concurrency: int) -> Measures:
        """Send them, so many at a time; one failure spoils a measurement."""
        load = await together(self.endpoint, self.asking, queries, concurrency)
        measures = measure(load.answers)
        if measures.failed:
            reason = next(iter(measures.errors))
            raise BenchFailure(
                f"{measures.failed} of {len(queries)} requests failed; the first one with: {reason}"
            )
        return measures

    def expect_fitting(self, tokens: int) -> None:
        """Refuse lengths that the model does not take."""
        if self.max_model_len is not None and tokens > self.max_model_len:
            raise Impossible(
                f"prompt and answer have up to {tokens} tokens; expected at most "
                f"{self.max_model_len}, which {self.asking.model} takes: choose shorter ones"
            )


@asynccontextmanager
async def subject(setting: Setting) -> AsyncIterator[Subject]:
    """The model under test, ready and asked once."""
    if setting.shape is not None:
        with of_shape(setting) as served:
            async with subject(served) as found:
                yield found
        return
    if setting.model is None:
        if setting.base_url is None:
            raise Impossible("nothing to measure: give a MODEL, --shape or --base-url")
        async with _asked(setting, setting.base_url, None) as found:
            yield found
        return
    if setting.base_url is not None:
        raise Impossible(
            f"MODEL ({setting.model}) and --base-url ({setting.base_url}) are both given; "
            "expected one of them"
        )
    flags = list(setting.flags)
    if setting.cache_dir is not None:
        flags.append(f"--cache-dir={setting.cache_dir}")
    async with (
        own_server(setting.model, flags, setting.threads) as server,
        _asked(setting, server.base_url, server) as found,
    ):
        yield found


@contextmanager
def of_shape(setting: Setting) -> Iterator[Setting]:
    """The setting itself, or a directory in place of its shape for as long as the context lasts."""
    if setting.shape is None:
        yield setting
        return
    _expect_alone(setting)
    with shape_directory(setting.shape) as directory:
        random = (*setting.flags, "--random-weights")
        yield replace(setting, model=f"file://{directory}", shape=None, flags=random)


def _expect_alone(setting: Setting) -> None:
    other = setting.model or setting.base_url
    if other is not None:
        raise Impossible(
            f"--shape ({setting.shape}) and {other} are both given; expected one of them"
        )


@asynccontextmanager
async def _asked(
    setting: Setting, base_url: str, server: OwnServer | None
) -> AsyncIterator[Subject]:
    ids = Ids(setting.seed, setting.vocabulary)
    async with Endpoint(base_url, setting.api_key) as endpoint:
        name, longest = await endpoint.first_model()
        probe = ids.draw(min(PROBE_WORDS, (longest or 512) // 2))
        asking, _ = await endpoint.prepared(Asking(model=name, ignore_eos=True), probe)
        yield Subject(endpoint, asking, longest, ids, server)


def model_files(setting: Setting) -> Path:
    """The directory of a model that the server under test has brought here already."""
    from aweigh_runtime.failures import StartFailure
    from aweigh_runtime.sources import fetch

    if setting.model is None or setting.cache_dir is None:
        raise Impossible("this reads the model's own files; give a MODEL, not --base-url")
    try:
        return fetch(
            setting.model,
            revision=None,
            secret_dir=None,
            cache_dir=setting.cache_dir,
            progress=lambda done, total: None,
        )
    except StartFailure as failure:
        raise BenchFailure(str(failure)) from failure
