"""`aweigh quantize` as a command: what it refuses, and what it says at the end."""

import shlex
from pathlib import Path

import pytest

from tests.cli.command import aweigh

MODEL = "builtin://helmsman-1m-draft"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--scheme=fp8", "--bits=4"],  # though 4 is what it would be without
            "--bits has no effect with --scheme fp8; expected it with --scheme rtn, gptq or awq",
        ),
        (["--scheme=rtn", "--activations=static"], "--activations has no effect with --scheme rtn"),
        (["--scheme=rtn", "--no-act-order"], "--act-order has no effect with --scheme rtn"),
        (["--bits=5"], "--bits is 5; expected 2, 3, 4 or 8"),
        (["--scheme=best"], "--scheme is not valid: 'best' is not one of"),
        (["--num-texts=0"], "--num-texts is not valid: '0' is not greater than or equal to 1"),
        (["--keep=*"], "--keep is *, which leaves nothing to quantize"),
        (["--perplexity=/nowhere"], "--perplexity is /nowhere, which cannot be read"),
        (["--budget=4.5", "--bits=3"], "--bits has no effect with --budget"),
        (["--loss=0.1"], "--loss has no effect without --compare"),
        (["--group-size=1000000000"], "--group-size is 1000000000; expected -1 for whole rows"),
        (["--seed=99999999999"], "--seed is not valid: '99999999999' is not less than or equal"),
        (["--num-texts=2", "--text-tokens=100"], "--num-texts 2 of --text-tokens 100 are at most"),
        (["--recover", "--num-texts=3"], "--recover has 24,576 tokens to train on; expected at"),
    ],
)
def test_what_is_impossible_is_refused_in_one_line_with_one_code(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    done = aweigh("quantize", MODEL, f"--output={tmp_path / 'out'}", *options)
    assert done.returncode == 78, done.stderr
    assert done.stderr.startswith(f"error: {sentence}")
    assert len(done.stderr.splitlines()) == 1


def test_the_command_that_serves_the_result_can_be_pasted(tmp_path: Path) -> None:
    out = tmp_path / "it's 4 bit"
    done = aweigh(
        "quantize", MODEL, f"--output={out}", "--scheme=rtn", "--num-texts=4", "--text-tokens=200",
        f"--cache-dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    command = done.stdout.strip().rpartition("serve it: ")[2]
    assert shlex.split(command) == ["aweigh", "serve", f"file://{out}"]
