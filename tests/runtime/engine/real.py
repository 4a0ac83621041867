"""The whole engine around a real model, without its process."""

from pathlib import Path

import torch

from aweigh_runtime.engine.loop import Compiler, Engine
from aweigh_runtime.engine.messages import Sampling, Stepped, Submission, Work
from aweigh_runtime.engine.prefixes import Memory
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.scheduler import Limits, Scheduler
from aweigh_runtime.engine.speculation.draft_model import DraftModel
from aweigh_runtime.engine.speculation.frame import Frame
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.host_copy import HostCopies
from aweigh_runtime.model.load import Wish, load
from aweigh_runtime.model.stepping import launched
from aweigh_runtime.sources.local import builtin
from tests.runtime.engine.test_loop import NoCompiler

BLOCK_TOKENS = 16
CPU = torch.device("cpu")


def exact_decoder(directory: Path) -> Decoder:
    return load(directory, Wish(dtype="fp32", exact=True), CPU, lambda done, total: None).decoder


def real_engine(
    decoder: Decoder,
    num_blocks: int = 256,
    *,
    max_running: int = 16,
    step_tokens: int = 64,
    caching: bool = True,
    num_host_blocks: int = 0,
    speculator: Speculator | None = None,
    compiler: Compiler | None = None,
) -> Engine:
    cache = KVCache(
        decoder.config, num_blocks, BLOCK_TOKENS, CacheFormat(decoder.dtype, decoder.dtype), CPU
    )
    copies = HostCopies(cache, num_host_blocks)
    limits = Limits(
        max_running=max_running, step_tokens=step_tokens, max_model_len=decoder.max_model_len
    )
    memory = Memory(
        num_blocks=num_blocks,
        block_tokens=BLOCK_TOKENS,
        caching=caching,
        num_host_blocks=num_host_blocks,
    )
    return Engine(
        Scheduler(limits, memory),
        launched(decoder, cache),
        Sampler(decoder.config.vocab_size),
        compiler or NoCompiler(),
        lambda step: copies.run(step.to_host, step.from_host),
        speculator,
    )


def draft_speculator(
    decoder: Decoder, num_blocks: int = 256, *, longest: int = 4, step_tokens: int = 64
) -> Speculator:
    return Speculator([draft_model(decoder, num_blocks, step_tokens=step_tokens)], longest)


def draft_model(decoder: Decoder, num_blocks: int = 256, *, step_tokens: int = 64) -> DraftModel:
    """The small model; it need not be exact."""
    directory = builtin("helmsman-1m-draft")
    small = load(directory, Wish(dtype="fp32"), CPU, lambda done, total: None).decoder
    kept = CacheFormat(small.dtype, small.dtype)
    cache = KVCache(small.config, num_blocks, BLOCK_TOKENS, kept, CPU)
    frame = Frame(
        vocab_size=decoder.config.vocab_size,
        block_tokens=BLOCK_TOKENS,
        max_model_len=decoder.max_model_len,
        step_tokens=step_tokens,
        device=CPU,
    )
    return DraftModel("draft", lambda t, chunks: small.forward(t, chunks, cache), frame)


def greedy(id: int, prompt: list[int], max_tokens: int) -> Submission:
    return Submission(id, list(prompt), max_tokens, [], Sampling(temperature=0))


def answers(reports: list[Stepped]) -> dict[int, list[int]]:
    texts: dict[int, list[int]] = {}
    for report in reports:
        assert not report.failures
        for output in report.outputs:
            texts.setdefault(output.id, []).extend(output.tokens)
    return texts


def alone(decoder: Decoder, prompt: list[int], max_tokens: int) -> list[int]:
    """What the engine answers when it has nothing else to do, and has done nothing before."""
    engine = real_engine(decoder, caching=False, step_tokens=2048)
    engine.take(Work([greedy(0, prompt, max_tokens)], []))
    reports = []
    while engine.patience_s == 0:
        reports.append(engine.step())
    return answers(reports)[0]
