"""`aweigh plan`: its arithmetic against the runtime's own, and what it says when nothing fits."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from aweigh_cli import capacity
from aweigh_cli.capacity import GIBI, GPUS, Device, Wish
from aweigh_cli.commands import app
from aweigh_cli.failures import CommandFailure
from aweigh_runtime.engine import sizing
from aweigh_runtime.formats.files import SIDE_FILES
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.graph_sizes import chain_bytes, graph_bytes
from aweigh_runtime.sources.local import builtin
from tests.cli.command import ENTRY, aweigh, environment
from tests.runtime.hub import Hub
from tests.runtime.sources.artifacts import ArtifactRegistry, archive, digest_of, files
from tests.runtime.sources.object_store import ObjectStore

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
}  # fmt: skip
DRAFT = "builtin://helmsman-1m-draft"
SERVICE = """
apiVersion: serving.aweigh.dev/v1alpha1
kind: InferenceService
metadata: {{name: chat}}
spec:
  model: {{uri: "file://{directory}", maxModelLen: 8192}}
  resources: {{limits: {{{limits}}}}}
"""


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return tmp_path


def plan(*given: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["plan", *given], env=env)
    if isinstance(result.exception, CommandFailure):
        return result.exception.exit_code, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_a_folder_is_planned_as_its_uri_is(llama: Path) -> None:
    by_folder, by_uri = plan(str(llama), "--gpu=h100"), plan(f"file://{llama}", "--gpu=h100")
    assert by_folder[0] == 0
    assert by_folder[1] == by_uri[1].replace("file://", "")


def planned(*given: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    code, stdout, stderr = plan(*given, "--output=json", env=env)
    assert code == 0, stderr
    found: dict[str, Any] = json.loads(stdout)
    return found


def test_quantized_weights_and_a_cache_of_8_bits_take_what_they_will(llama: Path) -> None:
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    dense = planned(f"file://{llama}", "--gpu=h100")
    (llama / "config.json").write_text(json.dumps({**LLAMA_8B, "quantization_config": gptq}))
    found = planned(f"file://{llama}", "--gpu=h100", "--kv-cache-dtype=fp8")
    matrices = 32 * (4096 * (6144 + 4096) + 3 * 4096 * 14_336)
    bits = 4 + (16 + 4) / 128  # and of each group a scale and a zero point
    assert found["weights"] == dense["weights"] - 2 * matrices + matrices * bits / 8
    assert found["kv_per_token"] * 2 == dense["kv_per_token"]
    code, _, stderr = plan(f"file://{llama}", "--gpu=h100", "--quantization=awq")
    assert code == 78
    assert "--quantization is awq" in stderr
    assert "expected auto or gptq" in stderr


def test_what_packers_wrote_beside_the_config_counts_too(llama: Path) -> None:
    gptq = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    dense = planned(f"file://{llama}", "--gpu=h100")
    (llama / "quantize_config.json").write_text(json.dumps(gptq))
    found = planned(f"file://{llama}", "--gpu=h100")
    assert found["weights"] < dense["weights"] / 2
    with Hub() as hub:
        hub.add("meta/llama", llama)
        env = {"HF_ENDPOINT": hub.url}
        assert planned("hf://meta/llama", "--gpu=h100", env=env)["weights"] == found["weights"]


def test_a_matrix_that_does_not_fit_its_format_is_said_as_loading_says_it(llama: Path) -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 96, "zero_point": True}
    (llama / "config.json").write_text(json.dumps({**LLAMA_8B, "quantization_config": awq}))
    code, _, stderr = plan(f"file://{llama}", "--gpu=h100")
    assert code == 78
    assert "model.layers.0.self_attn.q_proj [4096, 4096] cannot be stored as awq 4 bit" in stderr


def test_modules_are_known_by_the_names_that_a_checkpoint_has(llama: Path) -> None:
    text = {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4,
    }  # fmt: skip
    gemma = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    kept = [
        f"language_model.model.layers.{layer}.mlp.{name}_proj"
        for layer in range(34)
        for name in ("gate", "up", "down")
    ]
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    weights = []
    for dense in ([], kept):
        said = {**gemma, "quantization_config": {**fp8, "ignored_layers": dense}}
        (llama / "config.json").write_text(json.dumps(said))
        weights.append(planned(f"file://{llama}", "--gpu=h100", "--dtype=bf16")["weights"])
    matrices = 34 * 3 * 2560 * 10240
    assert weights[1] - weights[0] == pytest.approx(matrices, rel=0.01)


def test_a_dense_model_can_be_planned_in_8_bits(llama: Path) -> None:
    dense = planned(f"file://{llama}", "--gpu=h100")
    found = planned(f"file://{llama}", "--gpu=h100", "--quantization=fp8")
    assert dense["weights"] - found["weights"] == 32 * (4096 * 10_240 + 3 * 4096 * 14_336)


def test_the_figures_of_a_known_model(llama: Path) -> None:
    found = planned(f"file://{llama}", "--gpu=h100")
    assert found["weights"] == 8_030_261_248 * 2
    assert found["kv_per_token"] == 128 << 10
    assert found["fits"]
    assert (found["graphs"], found["host"]) == (243_138_560, 0)
    parts = ("weights", "step", "graphs", "reserve", "kv")
    spent = sum(found[part] for part in parts)
    assert spent == found["device"]["num_bytes"]
    assert found["tokens"] == found["kv"] // (16 * found["kv_per_token"]) * 16
    assert found["requests"]["131072"] == found["tokens"] // 131072


def test_recorded_decode_steps_take_more_memory_the_more_requests_are_in_them(llama: Path) -> None:
    few, many = (
        planned(f"file://{llama}", "--gpu=h100", f"--max-running={count}") for count in (256, 1024)
    )
    assert [each["graphs"] >> 20 for each in (few, many)] == [231, 903]


def test_steps_with_quantized_weights_are_recorded_as_those_with_dense_ones(llama: Path) -> None:
    dense = planned(f"file://{llama}", "--gpu=h100")["graphs"]
    for scheme in ("fp8", "int8"):
        quantized = planned(f"file://{llama}", "--gpu=h100", f"--quantization={scheme}")
        assert quantized["graphs"] == dense > 0
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    sparse = gptq | {"checkpoint_format": "marlin_24"}
    nvfp4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
    for stated in (gptq, sparse, nvfp4):
        (llama / "config.json").write_text(json.dumps(LLAMA_8B | {"quantization_config": stated}))
        assert planned(f"file://{llama}", "--gpu=h100")["graphs"] == dense > 0


def test_steps_of_experts_hold_the_gates_of_all_that_a_token_has(llama: Path) -> None:
    dense = planned(f"file://{llama}", "--gpu=h200", "--max-running=64")["graphs"]
    mixtral = {
        "architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip
    (llama / "config.json").write_text(json.dumps(LLAMA_8B | mixtral))
    experts = planned(f"file://{llama}", "--gpu=h200", "--max-running=64")["graphs"]
    assert experts == dense + 64 * 2 * (3 * 14_336) * 2


@pytest.mark.parametrize("given", [["--memory=64Gi"], ["--gpu=h100", "--dtype=fp32"]], ids=str)
def test_no_memory_is_counted_for_graphs_that_a_server_does_not_record(
    llama: Path, given: list[str]
) -> None:
    assert planned(f"file://{llama}", *given)["graphs"] == 0


def test_a_draft_takes_its_weights_and_its_part_of_every_block(tmp_path: Path) -> None:
    plain = planned("builtin://helmsman-8m", "--gpu=l4")
    draft = planned("builtin://helmsman-1m-draft", "--gpu=l4")
    uri = "builtin://helmsman-1m-draft"
    both = planned("builtin://helmsman-8m", f"--draft-model={uri}", "--gpu=l4")
    assert both["weights"] == plain["weights"]
    assert both["drafts"] == {uri: draft["weights"]}
    assert both["draft_kv_per_token"] == {uri: draft["kv_per_token"]}
    assert both["kv_per_token"] == plain["kv_per_token"] + draft["kv_per_token"]
    verified = 256 * 8 // 2  # no more than 1,024 tokens in a step, whose logits take memory
    assert both["step"] - plain["step"] == verified * CONFIG.vocab_size * 36
    chains = chain_bytes(read_config(builtin("helmsman-1m-draft")), 2, 256)
    graphs = graph_bytes(CONFIG, 2, 256, 8) + draft["graphs"] + chains
    assert both["graphs"] == graphs
    more = draft["weights"] + verified * CONFIG.vocab_size * 36 + graphs - plain["graphs"]
    assert both["kv"] == plain["kv"] - more
    assert both["tokens"] == both["kv"] // (16 * both["kv_per_token"]) * 16

    file = tmp_path / "service.yaml"
    speculation = f"  speculativeDecoding: {{draftModels: [{{uri: {uri}}}]}}\n"
    service = SERVICE.format(directory="", limits="nvidia.com/gpu: 1").replace("8192", "512")
    file.write_text(service.replace("file://", "builtin://helmsman-8m") + speculation)
    code, stdout, _ = plan(str(file), "--gpu=l4")
    assert code == 0
    assert f"- weights of the draft {uri}" in stdout
    kept = draft["kv_per_token"] / 1024
    assert f"{kept:.1f} KiB of them for the draft {uri}" in stdout
    assert planned(str(file), "--gpu=l4")["kv"] == both["kv"]


def test_a_draft_keeps_its_own_numbers_whatever_the_models_are() -> None:
    draft = planned("builtin://helmsman-1m-draft", "--gpu=l4")
    given = ("--draft-model=builtin://helmsman-1m-draft", "--kv-cache-dtype=fp8", "--dtype=fp32")
    found = planned("builtin://helmsman-8m", *given, "--gpu=l4")
    assert list(found["drafts"].values()) == [draft["weights"]]
    assert list(found["draft_kv_per_token"].values()) == [draft["kv_per_token"]]


def test_a_draft_that_is_too_much_is_what_to_leave_out(llama: Path) -> None:
    given = ("builtin://helmsman-8m", f"--draft-model=file://{llama}", "--memory=8Gi")
    code, stdout, _ = plan(*given)
    assert code == 0  # the server starts, and says in its status that it does not draft
    assert f"no room for file://{llama}: a server serves without drafts" in stdout
    assert "leave out the draft models" in stdout
    found = planned(*given)
    assert found["fits"]
    assert found["drafts_left_out"] == [f"file://{llama}"]
    assert found["drafts"] == {}


def test_a_draft_that_a_server_refuses_is_left_out_with_the_servers_reason(tmp_path: Path) -> None:
    short = copied_draft(tmp_path / "short", max_position_embeddings=512)
    other = copied_draft(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    given = [f"--draft-model=file://{each}" for each in (short, other)]
    code, stdout, _ = plan("builtin://helmsman-8m", f"--draft-model={DRAFT}", *given, "--gpu=l4")
    assert code == 0
    assert f"A server would not draft with file://{short}: ContextTooShort: it was made" in stdout
    assert f"A server would not draft with file://{other}: VocabularyMismatch: its" in stdout
    found = planned("builtin://helmsman-8m", f"--draft-model={DRAFT}", *given, "--gpu=l4")
    assert list(found["drafts"]) == [DRAFT]
    assert list(found["drafts_refused"]) == [f"file://{each}" for each in (short, other)]
    lower = planned("builtin://helmsman-8m", given[0], "--max-model-len=512", "--gpu=l4")
    assert list(lower["drafts"]) == [f"file://{short}"]


def test_a_draft_that_cannot_be_read_is_refused_as_a_server_does(tmp_path: Path) -> None:
    broken = copied_draft(tmp_path / "broken")
    (broken / "config.json").write_text("{")
    given = [f"--draft-model=file://{each}" for each in (tmp_path / "nowhere", broken)]
    code, stdout, _ = plan("builtin://helmsman-8m", *given, "--gpu=l4")
    assert code == 0
    assert f"A server would not draft with file://{tmp_path}/nowhere: DraftUnavail" in stdout
    assert f"A server would not draft with file://{broken}: DraftUnavailable: " in stdout
    code, _, stderr = plan("builtin://helmsman-8m", "--draft-model=pvc://claim/draft", "--gpu=l4")
    assert code == 78
    assert stderr.startswith("draft model pvc://claim/draft: the model is at")


def test_drafts_that_are_all_refused_take_no_memory(llama: Path, tmp_path: Path) -> None:
    short = copied_draft(tmp_path / "short", max_position_embeddings=512)
    file = tmp_path / "service.yaml"
    speculation = f"  speculativeDecoding: {{draftModels: [{{uri: file://{short}}}]}}\n"
    service = SERVICE.format(directory=llama, limits="nvidia.com/gpu: 1")
    file.write_text(service)
    alone = planned(str(file), "--gpu=a100-40")
    file.write_text(service + speculation)
    found = planned(str(file), "--gpu=a100-40")
    assert found["step"] == alone["step"]
    assert found["kv"] == alone["kv"]
    looked_up = "  speculativeDecoding: {method: ngram}\n"
    file.write_text(service + looked_up)
    assert planned(str(file), "--gpu=a100-40")["step"] > alone["step"]


def test_the_overview_says_what_each_plan_says(tmp_path: Path) -> None:
    large = tmp_path / "large"
    shutil.copytree(builtin("helmsman-1m-draft"), large)
    (large / "config.json").write_text(json.dumps(LLAMA_8B | {"vocab_size": 8192}))
    given = ("builtin://helmsman-8m", f"--draft-model=file://{large}")
    _, stdout, _ = plan(*given, "--output=json")
    overview = json.loads(stdout)
    assert overview["drafts_refused"] == {}
    by_name = {each["device"]["name"]: each for each in overview["devices"]}
    for name in ("t4", "h200"):
        one = planned(*given, f"--gpu={name}")
        same = ("fits", "kv", "tokens", "drafts", "drafts_left_out", "advice")
        assert {key: one[key] for key in same} == {key: by_name[name][key] for key in same}
    assert by_name["t4"]["drafts_left_out"] == [f"file://{large}"]
    assert by_name["h200"]["drafts_left_out"] == []
    _, stdout, _ = plan(*given)
    assert "without drafts" in next(line for line in stdout.splitlines() if line.startswith("t4"))


def copied_draft(directory: Path, **fields: int) -> Path:
    shutil.copytree(builtin("helmsman-1m-draft"), directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | fields))
    return directory


def test_a_drafts_tokenizer_is_compared_where_both_are_folders(llama: Path) -> None:
    with Hub() as hub:
        hub.add("meta/draft", builtin("helmsman-1m-draft"))
        env = {"HF_ENDPOINT": hub.url}
        given = ("builtin://helmsman-8m", "--draft-model=hf://meta/draft", "--gpu=l4")
        code, stdout, _ = plan(*given, env=env)
    assert code == 0
    assert "The tokenizer of hf://meta/draft was not compared" in stdout


def test_every_byte_of_a_pod_is_in_a_line() -> None:
    found = planned("builtin://helmsman-8m", f"--draft-model={DRAFT}", "--memory=4Gi")
    parts = ("weights", "step", "graphs", "reserve", "host", "left", "kv")
    spent = sum(found[part] for part in parts) + sum(found["drafts"].values())
    assert spent == found["device"]["num_bytes"]


def test_the_weights_of_the_shipped_model_are_its_file() -> None:
    found = planned("builtin://helmsman-8m", "--gpu=l4")
    files = builtin("helmsman-8m").glob("*.safetensors")
    assert found["weights"] == pytest.approx(sum(f.stat().st_size for f in files), rel=0.01)


@given(room=st.integers(0, 1 << 40), longest=st.integers(1, 1 << 40))
def test_a_cpu_is_filled_only_for_one_long_request(room: int, longest: int) -> None:
    kv = sizing.kv_bytes("cpu", room, longest)
    assert kv <= max(room, 0)
    assert kv <= max(sizing.CPU_BYTES, longest)
    assert kv >= longest or room < longest
    assert sizing.kv_bytes("cuda", room, longest) == room


def test_host_memory_is_the_pods_own_but_not_the_gpus(tmp_path: Path, llama: Path) -> None:
    file = tmp_path / "service.yaml"
    cache = "  prefixCache: {hostMemory: 3Gi}\n"
    file.write_text(SERVICE.format(directory=llama, limits="memory: 64Gi") + cache)
    found = planned(str(file))
    assert found["device"]["num_bytes"] == (64 + 3) * GIBI  # as the operator raises it
    assert found["host"] == 3 * GIBI
    parts = ("weights", "step", "graphs", "reserve", "host", "kv")
    assert sum(found[part] for part in parts) <= found["device"]["num_bytes"]
    on_gpu = planned(str(file), "--gpu=h100")
    assert on_gpu["kv"] == planned(f"file://{llama}", "--gpu=h100")["kv"]
    code, stdout, _ = plan(str(file), "--gpu=h100")
    lines = {line[:48].rstrip(): line[48:].strip() for line in stdout.splitlines()}
    assert code == 0
    assert lines["hostMemory, beside the GPU"] == "3.00 GiB"
    assert lines["- CUDA graphs of decode steps (estimated)"] == "0.23 GiB"


CONFIG = read_config(builtin("helmsman-8m"))


@given(
    size=st.integers(1 << 28, 1 << 37),
    more=st.integers(0, 1 << 36),
    is_gpu=st.booleans(),
    longest=st.integers(1, 2048),
)
def test_more_memory_never_holds_less(size: int, more: int, is_gpu: bool, longest: int) -> None:
    wish = Wish(max_model_len=longest)
    small = capacity.plan(CONFIG, Device("a", size, is_gpu), wish)
    large = capacity.plan(CONFIG, Device("b", size + more, is_gpu), wish)
    assert small.tokens <= large.tokens
    assert small.missing >= large.missing
    assert not small.fits or small.tokens >= longest


@given(size=st.integers(1 << 28, 1 << 31), longest=st.integers(1, 2048))
def test_what_is_missing_is_exactly_enough(size: int, longest: int) -> None:
    wish = Wish(max_model_len=longest)
    found = capacity.plan(CONFIG, Device("pod", size, False), wish)
    enough = capacity.plan(CONFIG, Device("pod", size + found.missing, False), wish)
    assert enough.fits
    assert found.fits or not _fits(CONFIG, size + found.missing - 1, wish)


def _fits(config: ModelConfig, size: int, wish: Wish) -> bool:
    return capacity.plan(config, Device("pod", size, False), wish).fits


def test_a_service_is_planned_for_its_own_limits(tmp_path: Path, llama: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(SERVICE.format(directory=llama, limits="memory: 64Gi"))
    found = planned(str(file))
    assert found["device"]["num_bytes"] == 64 * GIBI
    assert found["max_model_len"] == 8192
    assert list(found["requests"]) == ["512", "2048", "8192"]


def test_a_service_with_an_unknown_gpu_is_shown_on_all_of_them(tmp_path: Path, llama: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(SERVICE.format(directory=llama, limits="nvidia.com/gpu: 1"))
    code, stdout, _ = plan(str(file))
    assert code == 0
    lines = {line.split()[0]: line for line in stdout.splitlines()}
    assert set(GPUS) <= set(lines)
    assert "lacks" in lines["t4"]
    assert "lacks" not in lines["l40s"]


def test_what_does_not_fit_says_by_how_much_and_what_to_change(llama: Path) -> None:
    code, stdout, stderr = plan(f"file://{llama}", "--gpu=l4")
    assert code == 1
    assert "- weights" in stdout
    assert "does not fit into l4" in stderr
    assert "GiB more than its 22.00 GiB" in stderr
    longest = int(stderr.split("lower maxModelLen to at most ")[1].split(",")[0])
    assert planned(f"file://{llama}", "--gpu=l4", f"--max-model-len={longest}")["fits"]
    assert "or take a GPU such as a100-40" in stderr
    assert planned(f"file://{llama}", "--gpu=a100-40")["fits"]


def test_a_pod_that_is_too_small_is_told_the_limit_that_is_enough() -> None:
    code, _, stderr = plan("builtin://helmsman-8m", "--memory=600Mi")
    assert code == 1
    limit = stderr.rsplit("raise resources.limits.memory to ", 1)[1]
    assert planned("builtin://helmsman-8m", f"--memory={limit}")["fits"]


def test_a_model_of_the_hub_is_known_by_its_config_alone(llama: Path) -> None:
    with Hub() as hub:
        hub.add("meta/llama", llama)
        code, stdout, stderr = plan("hf://meta/llama", "--gpu=h200", env={"HF_ENDPOINT": hub.url})
        assert code == 0, stderr
        assert "LlamaForCausalLM" in stdout
        assert {path.rpartition("/")[2] for path in hub.paths()} == {"config.json", *SIDE_FILES}


def test_a_model_of_a_bucket_is_known_by_its_config_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with ObjectStore() as store:
        store.add("sea", "models/helmsman", builtin("helmsman-8m"), public=True)
        file = tmp_path / "service.yaml"
        limits = SERVICE.format(directory="", limits="memory: 4Gi")
        file.write_text(limits.replace("file://", "s3://sea/models/helmsman").replace("8192", "99"))
        found = planned(str(file), env={"AWS_ENDPOINT_URL": store.url})
        assert found["weights"] == planned("builtin://helmsman-8m", "--memory=4Gi")["weights"]
        read = {path for path in store.paths() if path != "/sea"}
        assert read == {"/sea/models/helmsman/config.json"}


def test_a_model_of_a_registry_is_known_by_its_config_alone(llama: Path) -> None:
    env = {"DOCKER_CONFIG": str(llama / "no-docker")}
    with ArtifactRegistry() as registry:
        registry.push("sea/helmsman", "v1", *files(builtin("helmsman-8m")))
        found = planned(f"oci://{registry.address}/sea/helmsman:v1", "--gpu=l4", env=env)
        assert found["weights"] == planned("builtin://helmsman-8m", "--gpu=l4")["weights"]
        blobs = [path for path in registry.paths() if "/blobs/" in path]
        config = digest_of((builtin("helmsman-8m") / "config.json").read_bytes())
        assert [path.rpartition("/")[2] for path in blobs] == [config]


@pytest.mark.parametrize("compress", [False, True], ids=["tar", "tar+gzip"])
def test_a_large_archive_is_read_as_far_as_its_config(llama: Path, compress: bool) -> None:
    config, weights = (llama / "config.json").read_bytes(), random.Random(1).randbytes(20 << 20)
    first = {"m/config.json": config, "m/model.safetensors": weights}
    last = {"m/model.safetensors": weights, "m/config.json": config}
    env = {"DOCKER_CONFIG": str(llama / "no-docker")}
    with ArtifactRegistry() as registry:
        for tag, members in (("first", first), ("last", last)):
            registry.push("sea/llama", tag, archive(members, compress=compress))
        uri = f"oci://{registry.address}/sea/llama"
        assert planned(f"{uri}:first", "--gpu=h200", env=env)["weights"] == 8_030_261_248 * 2
        code, _, stderr = plan(f"{uri}:last", env=env)
        assert code == 66
        assert "no config.json within the first 16 MiB of a layer" in stderr


@pytest.mark.parametrize(
    ("given", "code", "sentence"),
    [
        (["nowhere.yaml"], 78, "cannot read nowhere.yaml"),
        (["builtin://helmsman-9m"], 66, "there is no builtin://helmsman-9m"),
        (["pvc://models/llama"], 78, "copy its config.json into a directory here"),
        (["gs://models/llama"], 78, "expected builtin://, file:///, hf://, s3:// or oci://"),
        (["s3://models"], 78, "expected s3://BUCKET/PREFIX"),
        (["hf://meta"], 78, "expected hf://ORGANISATION/MODEL"),
        (["builtin://helmsman-8m", "--gpu=h900"], 78, "--gpu is h900; expected one of t4"),
        (["builtin://helmsman-8m", "--gpu=l4", "--memory=2Gi"], 78, "expected one of them"),
        (["builtin://helmsman-8m", "--memory=lots"], 78, "--memory: 'lots' is not an amount"),
        (["builtin://helmsman-8m", "--max-running=5000"], 78, "--max-running is not valid: '5000'"),
        (["builtin://helmsman-8m", "--request-tokens=4096"], 78, "has at most 2048 tokens"),
        (["builtin://helmsman-8m", "--draft-model="], 78, "--draft-model is ''; expected a URI"),
        (["builtin://helmsman-8m", *(2 * [f"--draft-model={DRAFT}"])], 78, "each once"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(given: list[str], code: int, sentence: str) -> None:
    done = plan(*given)
    assert done[0] == code
    assert sentence in done[2]


def test_a_service_without_any_limit_is_asked_for_one(tmp_path: Path, llama: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(SERVICE.format(directory=llama, limits="cpu: 2"))
    code, _, stderr = plan(str(file))
    assert code == 78
    assert "neither resources.limits.memory nor nvidia.com/gpu" in stderr


def test_planning_needs_no_torch() -> None:
    code = f"import sys; sys.modules['torch'] = None; {ENTRY}"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "builtin://helmsman-8m", "--gpu=l4"],
        env=environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_length_that_the_model_was_not_made_for_is_refused_as_serving_does() -> None:
    done = aweigh("plan", "builtin://helmsman-8m", "--max-model-len=100000", "--gpu=h100")
    assert done.returncode == 78
    assert "was made for 2048 tokens" in done.stderr
