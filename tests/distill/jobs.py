"""Small jobs of `aweigh distill`, between random models of 260 tokens."""

import random
import sys
from math import inf
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from aweigh_distill.job import Job, run
from aweigh_distill.recipe import Recipe
from tests.quantize.jobs import Silent

CPU = torch.device("cpu")
SPECIAL = ("<end>", "<pad>", "<user>", "<assistant>")
SHARP = 60  # random logits say next to nothing; times this, they say what comes
RECIPE: dict[str, Any] = {
    "answers": 2,
    "beginnings": 0,
    "text_tokens": 40,
    "steps": 60,
    "step_tokens": 512,
    "learning_rate": 1e-2,
}


def write_tokenizer(folder: Path) -> int:
    """One token for each byte, and some special ones; returns how many."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    found.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    return int(found.get_vocab_size())


def write_model(folder: Path, seed: int, sharp: float = 1.0, **shape: Any) -> Path:
    """A random Llama of one layer."""
    folder.mkdir()
    sizes = {
        "vocab_size": write_tokenizer(folder),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "eos_token_id": 256,
    }
    torch.manual_seed(seed)
    config = LlamaConfig(**(sizes | shape))
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model.lm_head.weight.mul_(sharp)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_prompts(path: Path, count: int = 80) -> Path:
    """Random words, a prompt a line."""
    chance = random.Random(0)
    letters = "abcdefghijklmnop"
    lines = ["".join(chance.choices(letters, k=chance.randint(3, 12))) for _ in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def job(models: Path, out: Path, **changes: Any) -> Job:
    """From `models/draft` to `models/target`."""
    recipe = RECIPE | {name: changes.pop(name) for name in RECIPE.keys() & changes}
    given: dict[str, Any] = {
        "target": f"file://{models / 'target'}",
        "target_directory": models / "target",
        "draft": f"file://{models / 'draft'}",
        "draft_directory": models / "draft",
        "recipe": Recipe(**recipe),
        "out": out,
        "prompts": [models / "prompts.txt"],
        "device": CPU,
    }
    return Job(**(given | changes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(job(Path(sys.argv[1]), Path(sys.argv[2]), saving_share=inf), Silent())
