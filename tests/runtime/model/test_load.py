import json
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aweigh_runtime.failures import (
    InvalidConfiguration,
    ModelDoesNotFit,
    ModelUnreadable,
    UnsupportedModel,
)
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.load import Wish, load
from aweigh_runtime.model.placement import places
from aweigh_runtime.model.shards import INDEX, SINGLE
from tests.runtime.model.checkpoints import (
    load_decoder,
    load_oracle,
    new_cache,
    oracle_logits,
    random_tokens,
    step,
    write_checkpoint,
)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A checkpoint in one file."""
    return write_checkpoint(tmp_path / "single")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same weights in several files."""
    directory = write_checkpoint(tmp_path / "sharded", shard_bytes=200_000)
    assert len(list(directory.glob("*.safetensors"))) > 2
    return directory


def _edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_index(directory: Path, name: str, file: str) -> None:
    path = directory / INDEX
    index = json.loads(path.read_text())
    index["weight_map"][name] = file
    path.write_text(json.dumps(index))


def _logits(directory: Path) -> torch.Tensor:
    decoder = load_decoder(directory)
    return step(decoder, new_cache(decoder, 1), [(0, 0, random_tokens(1, 20))])[0]


def test_one_file_and_several_give_the_same_model(single: Path, sharded: Path) -> None:
    assert torch.equal(_logits(single), _logits(sharded))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_every_number_format_is_read_and_converted(single: Path, stored: torch.dtype) -> None:
    path = single / SINGLE
    tensors = {name: tensor.to(stored) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})

    expected = oracle_logits(load_oracle(single), random_tokens(1, 20))

    torch.testing.assert_close(_logits(single), expected, atol=1e-4, rtol=0)


def test_progress_ends_with_all_bytes(sharded: Path, cpu: torch.device) -> None:
    reports: list[tuple[int, int]] = []
    load(sharded, Wish(dtype="bf16"), cpu, lambda done, total: reports.append((done, total)))

    total = reports[0][1]
    assert reports[0] == (0, total)
    assert reports[-1] == (total, total)
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})


def test_code_and_old_leftovers_in_a_checkpoint_change_nothing(
    single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _logits(single)
    for name in ("modeling_llama", "__init__", "json", "torch", "safetensors", "tokenizer"):
        (single / f"{name}.py").write_text("raise SystemExit('code of a model was run')")
    monkeypatch.chdir(single)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (single / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    _edit_config(single, auto_map={"AutoModelForCausalLM": "modeling_llama.Model"})
    tensors = load_file(single / SINGLE)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, single / SINGLE, metadata={"format": "pt"})

    assert torch.equal(_logits(single), before)


def test_a_tied_model_may_store_its_embedding_twice(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, tie_word_embeddings=True)
    before = _logits(directory)
    tensors = load_file(directory / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, directory / SINGLE, metadata={"format": "pt"})

    assert torch.equal(_logits(directory), before)
    assert "head.weight" not in load_decoder(directory).weights


def test_a_missing_tensor_is_named(single: Path) -> None:
    tensors = load_file(single / SINGLE)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, single / SINGLE)
    with pytest.raises(
        ModelUnreadable, match=r"lacks tensor model\.layers\.2\.mlp\.up_proj\.weight"
    ):
        load_decoder(single)


def test_a_tensor_that_the_config_does_not_know_is_named(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, attention_bias=True)
    _edit_config(directory, attention_bias=False)
    with pytest.raises(ModelUnreadable, match=r"has tensor .*bias and 15 more tensors, which"):
        load_decoder(directory)


def test_shapes_that_do_not_fit_the_config_are_refused_with_both(single: Path) -> None:
    _edit_config(single, intermediate_size=128)
    with pytest.raises(
        ModelUnreadable, match=r"is \[96, 64\]; the config\.json implies \[128, 64\]"
    ):
        load_decoder(single)


def test_weights_in_another_number_format_are_refused(single: Path) -> None:
    tensors = load_file(single / SINGLE)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, single / SINGLE)
    with pytest.raises(UnsupportedModel, match=r"stored as F8_E4M3; supported: BF16, F16, F32"):
        load_decoder(single)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_numbers_that_are_not_finite_are_refused_by_the_tensors_name(
    single: Path, name: str, broken: float
) -> None:
    tensors = load_file(single / SINGLE)
    tensors[name].view(-1)[-1] = broken
    save_file(tensors, single / SINGLE)
    with pytest.raises(ModelUnreadable, match=rf"tensor {name} holds NaN or infinity; expected"):
        load_decoder(single)


def test_numbers_that_the_wanted_format_cannot_hold_are_refused(single: Path) -> None:
    tensors = load_file(single / SINGLE)
    tensors["model.norm.weight"][3] = 1e5
    save_file(tensors, single / SINGLE)
    load_decoder(single, "bf16")
    with pytest.raises(ModelUnreadable, match=r"too large for torch\.float16; .* stored as F32"):
        load_decoder(single, "fp16")


def test_the_index_decides_which_shard_a_tensor_comes_from(sharded: Path) -> None:
    before = _logits(sharded)
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    last = sorted(set(weight_map.values()))[-1]
    stale = next(name for name, shard in weight_map.items() if shard != last)
    tensors = load_file(sharded / last)
    tensors[stale] = torch.full_like(load_file(sharded / weight_map[stale])[stale], 7.0)
    save_file(tensors, sharded / last, metadata={"format": "pt"})

    assert torch.equal(_logits(sharded), before)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelUnreadable, match=f"lacks the weight file {shard.name}"):
        load_decoder(sharded)


def test_a_truncated_shard_is_refused_before_anything_is_loaded(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ModelUnreadable, match=f"{shard.name} is truncated"):
        load_decoder(sharded)


def test_an_index_that_its_shards_contradict_is_refused(sharded: Path) -> None:
    first = sorted(path.name for path in sharded.glob("*.safetensors"))[0]
    _edit_index(sharded, "lm_head.extra", first)
    with pytest.raises(ModelUnreadable, match=f"says that {first} has lm_head.extra; it does not"):
        load_decoder(sharded)


@pytest.mark.parametrize("name", ["../single/model.safetensors", "/etc/passwd", "..", "", "a\0b"])
def test_an_index_cannot_lead_out_of_the_directory(sharded: Path, single: Path, name: str) -> None:
    _edit_index(sharded, "lm_head.weight", name)
    with pytest.raises(ModelUnreadable, match="expected a plain file name"):
        load_decoder(sharded)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_malformed_index_is_refused(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(ModelUnreadable, match=r"a JSON object|weight_map must be an object"):
        load_decoder(sharded)


def test_a_link_out_of_the_directory_is_not_followed(single: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.safetensors"
    (single / SINGLE).rename(elsewhere)
    (single / SINGLE).symlink_to(elsewhere)
    with pytest.raises(ModelUnreadable, match="links out of the model's directory"):
        load_decoder(single)


def test_the_links_of_a_hub_cache_are_followed(single: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in single.iterdir():
        shutil.copy(path, blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")

    assert torch.equal(_logits(snapshot), _logits(single))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pkl", ".gguf"])
def test_other_formats_are_refused_and_never_opened(single: Path, suffix: str) -> None:
    (single / SINGLE).unlink()
    (single / f"model{suffix}").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ModelUnreadable, match=rf"only as model\{suffix}; expected \*\.safetensors"):
        load_decoder(single)


def test_a_directory_without_weights_or_without_their_index_is_refused(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    with pytest.raises(
        ModelUnreadable, match=r"safetensors files but no model\.safetensors\.index"
    ):
        load_decoder(sharded)
    for path in sharded.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelUnreadable, match="has no weights"):
        load_decoder(sharded)


def test_a_model_longer_than_its_positions_is_refused_with_both_numbers(single: Path) -> None:
    with pytest.raises(
        InvalidConfiguration, match=r"--max-model-len is 257, but .* for 256 tokens"
    ):
        load_decoder(single, max_len=257)

    assert load_decoder(single, max_len=100).max_model_len == 100
    assert load_decoder(single).max_model_len == 256


@pytest.fixture
def one_terabyte() -> Iterator[None]:
    """Some kernels promise any memory: what asks for more must fail here and not later."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_weights_larger_than_the_memory_are_refused_before_anything_is_taken(
    one_terabyte: None, tmp_path: Path
) -> None:
    """The file claims terabytes and is sparse: only its header takes room."""
    write_checkpoint(tmp_path)
    _edit_config(tmp_path, vocab_size=1 << 26, hidden_size=1 << 13, head_dim=16)
    header, begin = {}, 0
    for place in places(read_config(tmp_path)):
        end = begin + 4 * torch.Size(place.shape).numel()
        header[place.name] = {"dtype": "F32", "shape": place.shape, "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header).encode()
    with (tmp_path / SINGLE).open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + begin)
    with pytest.raises(
        ModelDoesNotFit, match=r"need 43\d\d\.\d\d GB in torch\.float32, and .* free"
    ):
        load_decoder(tmp_path)


def test_a_checkpoint_that_lacks_ever_so_many_tensors_is_refused_at_once(single: Path) -> None:
    _edit_config(single, num_hidden_layers=4096)
    with pytest.raises(
        ModelUnreadable, match=r"lacks tensor model\.layers\.4\..* and many more tensors, which"
    ):
        load_decoder(single)
