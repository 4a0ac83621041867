"""`aweigh quantize --compare`: many schemes, and which of them to take."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aweigh_bench.quantization import Made, Options, advice, flags_of, make
from aweigh_cli import quantize
from aweigh_cli.commands import app
from aweigh_cli.failures import CommandFailure
from aweigh_quantize.job import HELD_OUT, OWN_TEXTS
from aweigh_quantize.spelling import recipe_of
from tests.quantize.jobs import AMOUNT, CPU


@pytest.fixture(scope="module")
def made(cut: Path) -> list[Made]:
    options = Options(
        model="builtin://cut",
        directory=cut,
        schemes=(),
        amount=AMOUNT,
        perplexity=(),
        steps=1,
        device=CPU,
        cache_dir=cut.parent / "cache",
        command="",
    )
    return [make(options, word, recipe_of(word)) for word in ("rtn-8-channel", "rtn-4", "rtn-2")]


def test_the_smallest_scheme_whose_interval_lies_below_the_limit_is_named(made: list[Made]) -> None:
    eight, four, two = made
    assert eight.loss.kl.high < four.loss.kl.value < four.loss.kl.high < two.loss.kl.high
    said = advice("builtin://cut", made, four.loss.kl.high)
    assert "is rtn-4: " in said
    assert said.endswith("Make it: aweigh quantize builtin://cut --scheme rtn -o FOLDER")
    said = advice("builtin://cut", made, four.loss.kl.value)  # it may well lose more than that
    assert "is rtn-8-channel: " in said
    assert said.endswith("--scheme rtn --bits 8 --group-size -1 -o FOLDER")
    assert "is rtn-2: " in advice("builtin://cut", made, two.loss.kl.high)
    said = advice("builtin://cut", made, 0.0)
    assert said.startswith("No scheme loses at most 0 nats per token. rtn-8-channel loses least, ")


@pytest.mark.parametrize(
    ("word", "flags"),
    [
        ("gptq-4", "--scheme gptq"),
        ("gptq-4-2:4", "--scheme gptq --sparse 2:4"),
        ("gptq-3-g64-reorder", "--scheme gptq --bits 3 --group-size 64 --no-static-groups"),
        ("rtn-4-asym", "--scheme rtn --no-symmetric"),
        ("gptq-4.6-recover", "--scheme gptq --budget 4.6 --recover"),
        ("fp8-block", "--scheme fp8 --granularity block"),
        ("int8-static", "--scheme int8 --activations static"),
    ],
)
def test_a_recipe_is_told_in_flags(word: str, flags: str) -> None:
    assert " ".join(flags_of(recipe_of(word))) == flags


def test_the_command_prints_every_scheme_and_its_advice(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "DEFAULT_SCHEMES", "rtn-8-channel,int8,rtn-2")
    text = tmp_path / "held-out.txt"
    text.write_text("A Pod is a group of containers. " * 200)
    few = ["--num-texts=8", "--text-tokens=80", f"--cache-dir={cut.parent / 'cache'}"]
    done = called(str(cut), "--compare", "--loss=0.5", f"--perplexity={text}", *few)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    rows = {words[0]: words for words in reversed(lines)}  # the first table's
    assert float(rows["rtn-8-channel"][1]) > float(rows["rtn-2"][1])  # MB
    assert str(text) in done.stdout  # the table of perplexities
    assert "loses at most 0.5 nats per token is int8: " in done.stdout


def test_the_report_names_the_texts_that_it_has_measured_with(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "DEFAULT_SCHEMES", "rtn-8-channel")
    text = tmp_path / "words.txt"
    text.write_text("A Pod is a group of containers. " * 400)
    few = ["--num-texts=8", "--text-tokens=80", f"--cache-dir={cut.parent / 'cache'}"]
    for given, named in ([], OWN_TEXTS), ([f"--calibration={text}"], HELD_OUT):
        done = called(str(cut), "--compare", *few, *given)
        assert done.exit_code == 0, done.output
        assert f"tokens of {named}, on which nothing is calibrated" in done.stdout
        assert "twice" not in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--compare", "--bits=3"], "--compare with --bits; expected neither an output nor"),
        (["--compare", "--output=x"], "--compare with --output; expected neither"),
    ],
)
def test_one_scheme_or_a_comparison_is_asked_for(cut: Path, flags: list[str], said: str) -> None:
    failure = called(str(cut), *flags).exception
    assert isinstance(failure, CommandFailure)
    assert said in str(failure)


def test_a_command_without_an_output_is_no_command(cut: Path) -> None:
    done = called(str(cut))
    assert done.exit_code == 2
    assert "Missing option '--output' / '-o', or '--compare'." in done.stderr


def called(*words: str) -> Any:
    return CliRunner().invoke(app, ["quantize", *words])
