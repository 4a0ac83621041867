"""transformers' generate on the same model directory. The only module that loads torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aweigh_bench.failures import BenchFailure

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
PADDING = 0


class Peer:
    """A model as transformers runs it, on the device that a server would take."""

    def __init__(self, directory: Path, dtype: str, threads: int) -> None:
        if find_spec("transformers") is None:
            raise BenchFailure(
                "--against transformers needs transformers, not installed here; install it beside "
                "aweigh[runtime]"
            )
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        torch.set_num_threads(threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=DTYPES[dtype], attn_implementation="sdpa"
        )
        if str(model.dtype) != f"torch.{DTYPES[dtype]}" or torch.get_num_threads() != threads:
            raise BenchFailure(
                f"transformers runs in {model.dtype} with {torch.get_num_threads()} threads; "
                f"expected {DTYPES[dtype]} and {threads}, as the server does"
            )
        self._model = model.to(self._device).eval()
        self._model.generation_config.eos_token_id = None  # no token ends an answer

    def generate(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        """Continue prompts of different lengths, greedily, by exactly `num_tokens` each."""
        import torch

        longest = max(map(len, prompts))
        padded = [[PADDING] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        with torch.inference_mode():
            generated = self._model.generate(
                torch.tensor(padded, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                use_cache=True,
                do_sample=False,
                pad_token_id=PADDING,
            )
        answers: list[list[int]] = generated[:, longest:].tolist()
        if any(len(answer) != num_tokens for answer in answers):
            raise BenchFailure(
                f"transformers generated {len(answers[0])} tokens; expected {num_tokens}: its "
                "generation config stops early"
            )
        return answers
