"""Every architecture through the whole engine: its greedy answers are those of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from aweigh_runtime.engine.messages import Counters, Work
from aweigh_runtime.model.decoder import Decoder
from tests.runtime.engine.real import answers, exact_decoder, greedy, real_engine
from tests.runtime.model.checkpoints import load_oracle, random_tokens, write_family
from tests.runtime.model.families import FAMILIES

ONE_OF_EACH = [
    "Llama 3",
    "Mistral",
    "Mixtral",
    "Qwen 2 with a kind for each layer",
    "Qwen 3",
    "Qwen 3 MoE with plain layers",
    "Phi-4-mini",
    "Gemma 2",
    "Gemma 3",
]
ANSWER = 40
STEM = random_tokens(1, 60)
PROMPTS = [STEM[:shared] + random_tokens(10 + shared, 9) for shared in (0, 16, 17, 40, 48, 60)]
NUM_BLOCKS = 14  # each answer may need 4 to 7
CLEAR = 1e-3  # a smaller lead of the likeliest token is within the rounding of fp32


def _in_one_engine(decoder: Decoder) -> tuple[dict[int, list[int]], Counters]:
    """Each request joins while the ones before it are being computed."""
    engine = real_engine(decoder, NUM_BLOCKS, max_running=5, step_tokens=20)
    reports = []
    for id, prompt in enumerate(PROMPTS):
        engine.take(Work([greedy(id, prompt, ANSWER)], []))
        reports.append(engine.step())
    while engine.patience_s == 0:
        reports.append(engine.step())
    return answers(reports), reports[-1].counters


def _num_confirmed(oracle: Any, prompt: list[int], answer: list[int]) -> int:
    """Tokens that clearly are what transformers says after those before them: all but ties."""
    with torch.inference_mode():
        logits = oracle(torch.tensor([prompt + answer[:-1]])).logits[0, len(prompt) - 1 :].float()
    best = logits.topk(2)
    clear = (best.values[:, 0] - best.values[:, 1]) > CLEAR
    assert best.indices[clear, 0].tolist() == torch.tensor(answer)[clear].tolist()
    return int(clear.sum())


def test_no_architecture_is_left_out() -> None:
    all_types = {model_type for model_type, _ in FAMILIES.values()}
    assert {FAMILIES[family][0] for family in ONE_OF_EACH} == all_types


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_greedy_answers_that_share_blocks_and_are_preempted_are_those_of_transformers(
    family: str, tmp_path: Path
) -> None:
    model_type, shape = FAMILIES[family]
    directory = write_family(tmp_path, model_type, **shape)

    found, counters = _in_one_engine(exact_decoder(directory))

    oracle = load_oracle(directory)
    confirmed = [_num_confirmed(oracle, PROMPTS[id], found[id]) for id in range(len(PROMPTS))]
    assert [len(found[id]) for id in range(len(PROMPTS))] == [ANSWER] * len(PROMPTS)
    assert sum(confirmed) > 0.95 * ANSWER * len(PROMPTS)
    assert counters.cached_prompt_tokens > 0
    assert counters.preemptions > 0
