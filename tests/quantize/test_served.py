"""What `aweigh quantize` writes is what `aweigh serve` answers with."""

import subprocess
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.cli.command import arguments, environment
from tests.quantize.whole import loaded, logits
from tests.runtime.serving import serving

FEW_TEXTS = ("--num-texts=8", "--text-tokens=64")
PROMPT, ANSWER = "A Pod is a group of", 12  # tokens of the answer


@pytest.mark.parametrize(
    ("scheme", "given"),
    [("marlin24", ("--scheme=gptq", "--sparse=2:4")), ("nvfp4", ("--scheme=nvfp4",))],
)
def test_a_server_says_what_the_checkpoint_is_and_answers_as_its_weights_do(
    scheme: str, given: tuple[str, ...], cut: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    command = arguments("quantize", f"file://{cut}", *given, "-o", str(made), *FEW_TEXTS)
    subprocess.run(command, check=True, timeout=240, env=environment())
    flags = (f"--quantization={scheme}", "--dtype=fp32")
    with serving(tmp_path, *flags, uri=f"file://{made}") as served:
        served.wait_ready()
        model = served.state().model
        assert model is not None
        assert model.quantization == scheme
        answer = served.complete(PROMPT, temperature=0, max_tokens=ANSWER, ignore_eos=True)
    assert answer.json()["choices"][0]["text"] == _likeliest(made)


def _likeliest(folder: Path) -> str:
    tokenizer, decoder = Tokenizer.from_file(str(folder / "tokenizer.json")), loaded(folder)
    prompt = tokenizer.encode(PROMPT).ids
    tokens = list(prompt)
    for _ in range(ANSWER):
        tokens.append(int(logits(decoder, tuple(tokens))[-1].argmax()))
    text: str = tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True)
    return text
