"""What quantizing takes of memory: a layer, not the model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aweigh_quantize.calibration import divided
from aweigh_quantize.checkpoint import read_checkpoint
from aweigh_quantize.evaluation import evaluate
from aweigh_quantize.job import run
from aweigh_quantize.tensor_file import stored_entry, write_tensors
from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.fields import read_object
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.footprint import weight_bytes
from aweigh_runtime.model.placement import places
from tests.cli.command import environment
from tests.quantize.conftest import COPIED, LAYERS
from tests.quantize.jobs import AMOUNT, Silent, job
from tests.quantize.whole import loaded, logits

PEAK = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
def peak():  # of this program alone: what rusage says begins with its parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
"""
QUANTIZE = """
from aweigh_quantize.job import run
from tests.quantize.jobs import Silent, job
model, out, text = map(Path, sys.argv[1:4])
before = peak()
loss = run(job(model, out, [text], **json.loads(sys.argv[4])), Silent()).loss
print(json.dumps([peak() - before, loss.kl.value, loss.dense_perplexity]))
"""
DEEP = 72  # layers
LAST = 8  # of them, whose precision a budget decides: each takes its time
KEPT = [
    f"layers.{index}.{module}_proj"
    for index in range(DEEP - LAST)
    for module in (
        *("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"),
        *("mlp.gate", "mlp.up", "mlp.down"),
    )
]
WIDE = 4096  # inputs of a matrix
ROUND = """
from aweigh_quantize.methods import fp4, fp8, gptq, sparse
from aweigh_quantize.methods.grid import Grid
from aweigh_quantize.methods.inputs import Inputs
wide, grid = int(sys.argv[1]), Grid(bits=4)
small = torch.randn(16, wide)
gptq.quantize(small[:, :256], (seen := Inputs(256)).add(torch.randn(256, 256)) or seen, grid)
before = peak()
inputs = Inputs(wide)
inputs.add(torch.randn(256, wide))
found = {}
for name, made in {
    "gptq": lambda: gptq.quantize(small, inputs, grid),
    "reordered": lambda: gptq.quantize(small, inputs, grid, gptq.Options(static_groups=False)),
    "sparse": lambda: sparse.quantize(small, inputs, grid),
    "fp8": lambda: fp8.quantize(small, inputs=inputs),
    "nvfp4": lambda: fp4.quantize(small, inputs=inputs),
}.items():
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    made()
    found[name] = (peak() - before) / (4 * wide * wide)
print(json.dumps(found))
"""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    lines = [f"Pod {number} runs {number % 7} containers on node {number}." for number in range(99)]
    path.write_text("\n".join(lines))
    return path


def repeated(cut: Path, folder: Path) -> Path:
    """The layers of a small model again and again: larger than all that quantizing may take."""
    folder.mkdir()
    for name in COPIED:
        (folder / name).write_bytes((cut / name).read_bytes())
    config = read_object(cut / "config.json") | {"num_hidden_layers": DEEP}
    (folder / "config.json").write_text(json.dumps(config))
    entries = []
    for name, tensor in read_checkpoint(cut).stored.items():
        if not name.startswith("model.layers."):
            entries.append(stored_entry(tensor))
            continue
        _, _, index, rest = name.split(".", 3)
        copies = range(int(index), DEEP, LAYERS)
        entries += [stored_entry(tensor, f"model.layers.{copy}.{rest}") for copy in copies]
    write_tensors(folder / "model.safetensors", entries)
    return folder


def measured(program: str, *given: object) -> Any:
    """What a program prints in a process whose memory is its own."""
    finished = subprocess.run(
        [sys.executable, "-c", PEAK + program, *map(str, given)],
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("recipe", [{}, {"budget": 4.5, "keep": KEPT}], ids=["4 bit", "budget"])
def test_with_texts_a_model_is_never_in_memory_and_its_loss_is_that_of_the_whole(
    cut: Path, text: Path, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    deep, out = repeated(cut, tmp_path / "deep"), tmp_path / "out"
    taken, kl, perplexity = measured(QUANTIZE, deep, out, text, json.dumps(recipe))
    checkpoint = read_checkpoint(deep)
    assert taken < 0.6 * weight_bytes(checkpoint.config, 4)

    _, held_out = divided([text], checkpoint, AMOUNT)
    dense, quantized = loaded(deep), loaded(out)
    again = evaluate(
        held_out, [(logits(dense, t.tokens), logits(quantized, t.tokens)) for t in held_out]
    )
    assert perplexity == pytest.approx(again.dense_perplexity, rel=1e-3)
    assert kl == pytest.approx(again.kl.value, rel=0.02)


def test_texts_to_measure_with_are_none_to_calibrate_on(cut: Path, text: Path) -> None:
    calibration, held_out = divided([text], read_checkpoint(cut), AMOUNT)
    assert held_out
    assert {each.tokens for each in calibration}.isdisjoint(each.tokens for each in held_out)


def test_a_model_that_does_not_fit_asks_for_texts(cut: Path, tmp_path: Path) -> None:
    """Terabytes of weights, all of them a hole in a file."""
    folder = tmp_path / "large"
    folder.mkdir()
    for name in COPIED:
        (folder / name).write_bytes((cut / name).read_bytes())
    wide = {"intermediate_size": 1 << 22, "num_hidden_layers": 512}
    (folder / "config.json").write_text(json.dumps(read_object(cut / "config.json") | wide))
    config = read_config(folder)
    header, end = {}, 0
    for place in places(config):
        begin, end = end, end + 2 * place.num_values
        header[place.name] = {"dtype": "BF16", "shape": place.shape, "data_offsets": [begin, end]}
    data = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + end)
    with pytest.raises(ModelDoesNotFit, match=r"give --calibration FILE"):
        run(job(folder, tmp_path / "out"), Silent())


def test_no_method_holds_more_than_two_matrices_of_the_inputs_second_moments() -> None:
    copies = measured(ROUND, WIDE)
    # Two are 128 MiB; the library's work space and pieces of the weight come to some 20.
    assert all(1.9 < count < 2.6 for count in copies.values()), copies
