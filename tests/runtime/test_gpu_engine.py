"""A model of real size on a GPU: Llama 3.1 8B's shape with random weights, through the server."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import torch

from aweigh_runtime.sources.local import builtin
from tests.runtime.serving import Served, serving

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(540)]

SHAPE: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "eos_token_id": [0, 3],
}
TEXTS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
KNOWN_TOKENS = 8192  # of the tokenizer; the model's vocabulary is larger
FLAGS = (
    "--device=cuda",
    "--max-model-len=16384",
    "--kv-cache-memory=4Gi",  # 32,768 tokens: little enough that blocks leave for host memory
    "--prefix-cache-host-memory=8Gi",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("llama-8b")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))  # type: ignore[no-untyped-call]
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory)
    for name in TEXTS:
        if (builtin("helmsman-8m") / name).exists():
            shutil.copy(builtin("helmsman-8m") / name, directory)
    del model
    torch.cuda.empty_cache()
    return directory


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("server")
    with serving(directory, *FLAGS, uri=f"file://{checkpoint}") as server:
        server.wait_ready(180.0)
        yield server


def prompt(seed: int, length: int) -> list[int]:
    dice = Random(seed)
    return [dice.randrange(6, KNOWN_TOKENS) for _ in range(length)]


def test_log_probabilities_are_as_near_to_the_exact_ones_as_transformers_are(
    served: Served, checkpoint: Path
) -> None:
    tokens = prompt(1, 700)
    answer = served.complete(tokens, max_tokens=1, prompt_logprobs=0, temperature=0).json()
    ours = torch.tensor(
        [
            next(iter(each.values()))["logprob"]
            for each in answer["choices"][0]["prompt_logprobs"]
            if each is not None
        ]
    )
    exact = oracle_logprobs(checkpoint, tokens, torch.float32)
    theirs = oracle_logprobs(checkpoint, tokens, torch.bfloat16)
    our_error, their_error = (ours - exact).abs(), (theirs - exact).abs()
    print(  # noqa: T201
        f"log-probabilities of {len(ours)} tokens, distance to fp32 transformers: "
        f"ours {our_error.mean():.5f}, at most {our_error.max():.5f}; "
        f"transformers in bf16 {their_error.mean():.5f}, at most {their_error.max():.5f}"
    )
    assert our_error.mean() <= 1.1 * their_error.mean()


def oracle_logprobs(checkpoint: Path, tokens: list[int], dtype: torch.dtype) -> torch.Tensor:
    from transformers import LlamaForCausalLM

    oracle: Any = LlamaForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    oracle.cuda()
    with torch.inference_mode():
        logits = oracle(torch.tensor([tokens], device="cuda")).logits[0].float()
        scores = torch.log_softmax(logits, -1)[:-1]
        found = scores.gather(1, torch.tensor(tokens[1:], device="cuda")[:, None])
    return found[:, 0].cpu()


def test_every_feature_works_at_once(served: Served) -> None:
    numbers = {"type": "integer", "minimum": 0, "maximum": 999}
    schema = {
        "type": "object",
        "properties": {"a": numbers},
        "required": ["a"],
        "additionalProperties": False,
    }
    stem = prompt(2, 256)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"n": 2, "seed": 1, "top_p": 0.9},
        {"logprobs": 5, "top_k": 50, "min_p": 0.01},
        {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
        {"logit_bias": {"100": 5}, "stop_token_ids": [100]},
        {"structured_outputs": {"json": schema}, "max_tokens": 200},
        {"min_tokens": 20, "ignore_eos": True},
        {"prompt_logprobs": 1},
    ]

    def ask(index: int) -> httpx.Response:
        fields = {"max_tokens": 64, "cache_salt": None, **kinds[index % len(kinds)]}
        return served.complete(stem + prompt(index, 64), **fields)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    for index, answer in enumerate(answers):
        for choice in answer.json()["choices"]:
            assert choice["finish_reason"] in ("stop", "length")
            if "structured_outputs" in kinds[index % len(kinds)] and _stopped(choice):
                assert 0 <= json.loads(choice["text"])["a"] <= 999
    hits = [each.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for each in answers]
    assert sum(hit >= 256 for hit in hits) > 40
    state = served.state()
    assert state.kv_tokens is not None
    assert state.kv_tokens.held == 0


def _stopped(choice: dict[str, Any]) -> bool:
    """Random weights may fill the answer with white space until it is cut off."""
    return bool(choice["finish_reason"] == "stop")


def test_what_left_the_gpu_comes_back_from_host_memory(served: Served) -> None:
    def ask(seed: int) -> tuple[str, int]:
        reply = served.complete(prompt(seed, 6000), max_tokens=8, temperature=0).json()
        cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        return reply["choices"][0]["text"], cached

    first = [ask(100 + index) for index in range(8)]  # 48,000 tokens, of which 32,768 stay
    again = ask(100)
    assert first[0][1] == 0
    assert again[1] >= 5900
    assert served.metric("aweigh_prefix_cache_host_loaded_blocks_total") > 0
