"""Gradients are those of the loss, and reach every weight of every family."""

from pathlib import Path
from typing import Any

import pytest
import torch

from aweigh_distill.acceptance import accepted
from aweigh_distill.batch import batch_of, in_parts
from aweigh_distill.student import Student
from aweigh_distill.training import Schedule, gradient
from aweigh_quantize.checkpoint import read_checkpoint
from aweigh_quantize.texts import Text
from tests.distill.jobs import CPU
from tests.runtime.model.checkpoints import load_oracle, random_tokens, write_family

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 8},
    "mixtral": {"num_local_experts": 4},
}


def differs(found: Any, expected: Any) -> float:
    """How much, relative to what is expected."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sizes", [(50, 50), (50, 60), (60, 50)])
def test_the_gradient_is_that_of_the_divergences(share: float, sizes: tuple[int, int]) -> None:
    torch.manual_seed(0)
    target, draft = (2 * torch.randn(7, size) for size in sizes)
    target[:, 50:] = -float("inf")  # padding of a vocabulary
    draft.requires_grad_()
    p, log_q = target.softmax(-1)[:, :50], draft[:, : sizes[0]].log_softmax(-1)[:, :50]
    kl = (torch.xlogy(p, p) - p * log_q).sum()
    loss = (1 - share) * kl - share * accepted(target, draft).sum()
    (expected,) = torch.autograd.grad(loss, draft)
    torch.testing.assert_close(gradient(target, draft, share), expected, atol=1e-6, rtol=1e-5)


def test_acceptance_is_one_for_the_same_model_and_nothing_for_a_disjoint_one() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [90.0, 0.0, 0.0]])
    torch.testing.assert_close(accepted(logits, logits), torch.ones(2))
    assert accepted(logits[1:], torch.tensor([[0.0, 90.0, 0.0]])).item() < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_has_the_gradients_that_transformers_finds(family: str, tmp_path: Path) -> None:
    folder = write_family(tmp_path / family, family, **FAMILIES[family])
    # Not token 0: transformers gives the embedding of a padding token no gradient.
    lists = [[token or 1 for token in random_tokens(seed, 12 + seed)] for seed in range(3)]
    texts = [Text(tuple(tokens), 1 + seed) for seed, tokens in enumerate(lists)]
    batch = batch_of(texts, CPU)
    checkpoint = read_checkpoint(folder)
    student = Student(checkpoint, texts, checkpoint.config.vocab_size, CPU)
    logits = student.logits(batch)
    torch.manual_seed(0)
    pulls = torch.randn_like(logits)
    logits.backward(pulls)  # type: ignore[no-untyped-call]
    student.share_gradients()

    oracle = load_oracle(folder)
    for text, pull in zip(texts, torch.split(pulls, list(batch.num_predicted)), strict=True):
        found = oracle(torch.tensor([text.tokens[:-1]])).logits[0, text.num_given - 1 :]
        found.backward(pull)
    theirs = dict(oracle.named_parameters())
    weights = student.weights
    assert all(weight.grad is not None for weight in weights.values())
    for name, weight in {
        "model.embed_tokens.weight": weights["embedding.weight"],
        "model.layers.0.self_attn.o_proj.weight": weights["layers.0.attention.out.weight"],
        "model.layers.3.input_layernorm.weight": weights["layers.3.attention.norm.weight"],
    }.items():
        assert differs(weight.grad, theirs[name].grad) < 1e-3
    if family == "qwen3":
        own = weights["layers.1.attention.qkv.norm.weight"].grad
        assert own is not None
        norm = theirs["model.layers.1.self_attn.q_norm.weight"].grad
        for row in own[:4]:
            assert differs(row, norm) < 1e-3


def test_large_vocabularies_make_small_parts() -> None:
    texts = [Text(tuple(range(100))) for _ in range(8)]
    assert [len(part) for part in in_parts(texts, 1 << 17)] == [2, 2, 2, 2]
    assert [len(part) for part in in_parts(texts, 1 << 12)] == [8]


def test_the_rate_rises_then_falls_and_the_distance_takes_over() -> None:
    schedule = Schedule(steps=100, step_tokens=1, learning_rate=1.0, seed=0)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == 0.2
    assert max(rates) == rates[5] == 1.0
    assert rates[99] < 0.03
    assert [schedule.share(step) for step in (0, 30, 45, 60, 99)] == [0, 0, 0.5, 1, 1]
