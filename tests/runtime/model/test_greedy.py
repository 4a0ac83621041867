"""Greedy text over 50 prompts: ours, batched, must be transformers' to the last token."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from aweigh_runtime.model.decoder import Decoder
from tests.runtime.model.checkpoints import load_decoder, load_oracle, new_cache, step

QUESTIONS = (
    "Pod,Service,Deployment,ReplicaSet,StatefulSet,DaemonSet,Job,CronJob,ConfigMap,Secret,"
    "Namespace,Node,Ingress,NetworkPolicy,PersistentVolume,PersistentVolumeClaim,StorageClass,"
    "ServiceAccount,Role,RoleBinding,ClusterRole,LimitRange,ResourceQuota,PriorityClass,"
    "HorizontalPodAutoscaler,PodDisruptionBudget,Endpoints,EndpointSlice,Event,Lease"
)
BEGINNINGS = (
    "A Pod is,The kubelet,To create a Deployment,Services select,When a node fails,The scheduler,"
    "Labels are,An Ingress,Use kubectl,Each container,Volumes can,A ConfigMap holds,Secrets are,"
    "The control plane,Probes,A rolling update,Namespaces,The API server,etcd,Affinity"
)
NEW_TOKENS = 24


def fifty_prompts(directory: Path) -> tuple[list[list[int]], set[int]]:
    """Tokens of each, and those that end an answer."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    stop = set(json.loads((directory / "generation_config.json").read_text())["eos_token_id"])
    texts = [f"<|user|>What is a {kind}?<|end|><|assistant|>" for kind in QUESTIONS.split(",")]
    return [tokenizer(text)["input_ids"] for text in texts + BEGINNINGS.split(",")], stop


def greedy(decoder: Decoder, prompts: list[list[int]], stop: set[int]) -> list[list[int]]:
    """Decode greedily, all prompts of the list in one batch."""
    cache = new_cache(decoder, len(prompts))
    parts = [(slot, 0, prompt) for slot, prompt in enumerate(prompts)]
    answers: list[list[int]] = [[] for _ in prompts]
    while parts:
        chosen = step(decoder, cache, parts).argmax(-1).tolist()
        going = []
        for (slot, start, run), token in zip(parts, chosen, strict=True):
            answers[slot].append(token)
            if token not in stop and len(answers[slot]) < NEW_TOKENS:
                going.append((slot, start + len(run), [token]))
        parts = going
    return answers


@pytest.mark.parametrize("num_together", [1, 10])
def test_greedy_text_is_that_of_transformers_over_50_prompts(
    helmsman: Path, num_together: int
) -> None:
    prompts, stop = fifty_prompts(helmsman)
    assert len(prompts) == 50
    decoder, oracle = load_decoder(helmsman), load_oracle(helmsman)

    for first in range(0, len(prompts), num_together):
        group = prompts[first : first + num_together]
        for prompt, answer in zip(group, greedy(decoder, group, stop), strict=True):
            # What the oracle would say after each token of the answer: by induction, its own text.
            with torch.inference_mode():
                logits = oracle(torch.tensor([prompt + answer[:-1]])).logits[0]
            assert logits[len(prompt) - 1 :].argmax(-1).tolist() == answer
