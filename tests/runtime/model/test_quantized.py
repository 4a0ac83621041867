"""Decoders whose matrices are quantized compute what the dense ones of the same meaning do."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from aweigh_cli.model_config import described
from aweigh_kernels.weight import Weight
from aweigh_runtime.failures import InvalidConfiguration, ModelUnreadable
from aweigh_runtime.formats import online
from aweigh_runtime.formats.gptq_layout import GptqLayout
from aweigh_runtime.formats.int_groups import IntGroups
from aweigh_runtime.formats.layout import Layout
from aweigh_runtime.formats.packed_int_layout import PackedIntLayout
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import weight_bytes
from aweigh_runtime.model.load import Wish, load
from tests.kernels.held import held_bytes
from tests.runtime.model.checkpoints import (
    load_decoder,
    new_cache,
    random_tokens,
    step,
    write_checkpoint,
    write_family,
)
from tests.runtime.model.quantized import Quantize, Twins, change, quantized_twins, round_to

WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
MATRICES = 2 * [(256, 128), (128, 128), (512, 128), (128, 256)]  # of both layers
PROMPT = random_tokens(1, 70)
QUERY = "model.layers.0.self_attn.q_proj"


def everything(layout: Layout, quantize: Quantize) -> dict[str, tuple[Layout, Quantize]]:
    return {"model.layers.": (layout, quantize)}


def twins(
    tmp_path: Path,
    rules: Mapping[str, tuple[Layout, Quantize]],
    description: Mapping[str, object],
    source: Path | None = None,
) -> Twins:
    """The first rule whose word stands in a module's name."""
    source = source or write_checkpoint(tmp_path / "source", **WIDE)

    def rule(module: str) -> tuple[Layout, Quantize] | None:
        return next((each for word, each in rules.items() if word in module), None)

    return quantized_twins(source, tmp_path, rule, description)


@pytest.fixture
def gptq(tmp_path: Path) -> Twins:
    return twins(tmp_path, everything(GptqLayout(bits=4, group=32), round_to(4, 32)), GPTQ)


def logits(decoder: Decoder, sizes: tuple[int, ...] = (len(PROMPT),)) -> torch.Tensor:
    """[V], after a prompt that is read in chunks."""
    cache, first = new_cache(decoder, 1), 0
    found = torch.empty(0)
    for size in sizes:
        found = step(decoder, cache, [(0, first, PROMPT[first : first + size])])[0]
        first += size
    return found


def expect_the_same(pair: Twins, sizes: tuple[int, ...] = (64, 5, 1)) -> None:
    """Products of one row, few rows and many rows."""
    expected = logits(load_decoder(pair.dense), sizes)
    torch.testing.assert_close(
        logits(load_decoder(pair.quantized), sizes), expected, rtol=1e-4, atol=1e-4
    )
    exact = load_decoder(pair.quantized, exact=True)
    torch.testing.assert_close(logits(exact, sizes), expected, rtol=1e-4, atol=1e-4)


def test_gptq_computes_what_its_numbers_mean(gptq: Twins) -> None:
    expect_the_same(gptq)


def test_shards_of_one_matrix_may_be_quantized_differently(tmp_path: Path) -> None:
    """Mixed precision: keys in 8 bits, values dense, the rest in 4 bits and in 3 by a rule."""
    rules: dict[str, tuple[Layout, Quantize]] = {
        "k_proj": (GptqLayout(bits=8, group=32), round_to(8, 32)),
        "up_proj": (GptqLayout(bits=2, group=64), round_to(2, 64)),
        "v_proj": (GptqLayout(bits=3, group=32), round_to(3, 32)),
        **everything(GptqLayout(bits=4, group=32), round_to(4, 32)),
    }
    dynamic = {
        r"+:.*k_proj": {"bits": 8},
        r"+:.*up_proj": {"bits": 2, "group_size": 64},
        r"+:.*v_proj": {"bits": 3},
    }
    expect_the_same(twins(tmp_path, rules, {**GPTQ, "dynamic": dynamic}))


def test_dense_rows_beside_quantized_ones_must_be_finite(tmp_path: Path) -> None:
    value = "model.layers.0.self_attn.v_proj"
    rules = {
        word: (GptqLayout(bits=4, group=32), round_to(4, 32))
        for word in ("q_proj", "k_proj", "o_proj", "mlp")
    }
    pair = twins(tmp_path, rules, {**GPTQ, "dynamic": {r"-:.*v_proj": {}}})
    expect_the_same(pair)
    broken = torch.full((64, 128), torch.nan)
    change(pair.quantized, **{f"{value}.weight".replace(".", "__"): broken})
    with pytest.raises(ModelUnreadable, match=rf"tensor {value}.weight holds NaN or infinity"):
        load_decoder(pair.quantized)


def test_act_order_may_differ_between_shards(tmp_path: Path) -> None:
    layout = GptqLayout(bits=4, group=32, act_order=True)
    orders = iter(range(100))

    def ordered(weight: torch.Tensor) -> Weight:
        generator = torch.Generator().manual_seed(next(orders))
        order = torch.randperm(weight.shape[1], generator=generator)
        order = order.view(-1, 32).sort(-1).values.flatten()  # as files keep it
        return round_to(4, 32, perm=order)(weight)

    expect_the_same(twins(tmp_path, everything(layout, ordered), {**GPTQ, "desc_act": True}))


def test_experts_are_quantized_one_by_one_and_the_router_may_stay_dense(tmp_path: Path) -> None:
    source = write_family(
        tmp_path / "source",
        "qwen3_moe",
        **{**WIDE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    )
    description = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["re:.*mlp.gate$", "lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
                    "group_size": 32,
                },
            }
        },
    }  # fmt: skip
    layout = PackedIntLayout(groups=IntGroups(bits=4, size=32))
    rules = {"_proj": (layout, round_to(4, 32))}
    expect_the_same(twins(tmp_path, rules, description, source))


def test_an_answer_of_a_quantized_model_does_not_depend_on_the_batch(gptq: Twins) -> None:
    decoder = load_decoder(gptq.quantized, exact=True)
    alone = logits(decoder)
    cache = new_cache(decoder, 3)
    parts = [(request, 0, random_tokens(request + 5, 30 + request)) for request in range(2)]
    step(decoder, cache, [*parts, (2, 0, PROMPT[:40])])
    among = step(decoder, cache, [(2, 40, PROMPT[40:]), (0, 30, [7])])
    assert torch.equal(among[0], alone)


def test_a_plan_announces_what_loading_does(gptq: Twins) -> None:
    found = described(f"file://{gptq.quantized}", None, "auto")
    planned = weight_bytes(found.config, 4, found.kept_bytes)
    wish = Wish(dtype="fp32")
    loaded = load(gptq.quantized, wish, torch.device("cpu"), lambda done, total: None)
    assert planned == loaded.weight_bytes
    (gptq.quantized / "model.safetensors").unlink()
    alone = described(f"file://{gptq.quantized}", None, "auto")
    assert weight_bytes(alone.config, 4, alone.kept_bytes) == planned


def test_matrices_stay_packed_in_memory(gptq: Twins) -> None:
    """In the layout of 4 bits that torch multiplies on a CPU, with its scales; nothing else."""
    decoder = load_decoder(gptq.quantized)
    num_weights = sum(rows * columns for rows, columns in MATRICES)
    # Of 32 weights a scale and what is added, in fp32.
    assert held_bytes(decoder.matrices) == num_weights * (0.5 + 2 * 4 / 32)


def test_exact_products_keep_dense_numbers_alone(gptq: Twins) -> None:
    exact = load_decoder(gptq.quantized, exact=True)
    shapes = sum(4 * rows * columns for rows, columns in MATRICES)
    assert held_bytes(exact.matrices) == pytest.approx(shapes, rel=0.02)


@pytest.mark.parametrize("scheme", online.SCHEMES)
def test_a_dense_checkpoint_can_be_quantized_while_it_is_loaded(
    tmp_path: Path, scheme: online.Scheme
) -> None:
    source = write_checkpoint(tmp_path / "source", **WIDE)
    expected = logits(load_decoder(source))
    for exact in (False, True):
        wish = Wish(dtype="fp32", scheme=scheme, exact=exact)
        decoder = load(source, wish, torch.device("cpu"), lambda done, total: None).decoder
        assert len(decoder.matrices) == 2 * 4  # qkv, out, gate and up, down of both layers
        difference = (logits(decoder) - expected).norm() / expected.norm()
        assert 1e-4 < difference < 0.5


def test_another_scheme_is_refused_with_what_the_checkpoint_has(gptq: Twins) -> None:
    def wish(directory: Path, scheme: online.Scheme | str) -> None:
        wanted = Wish(scheme=scheme)  # type: ignore[arg-type]
        load(directory, wanted, torch.device("cpu"), lambda done, total: None)

    with pytest.raises(InvalidConfiguration, match=r"--quantization is awq, but .* gptq .*gptq"):
        wish(gptq.quantized, "awq")
    with pytest.raises(InvalidConfiguration, match=r"is none, but .* expected auto or gptq"):
        wish(gptq.quantized, "none")
    with pytest.raises(InvalidConfiguration, match=r"is gptq, but the weights of .* are dense"):
        wish(gptq.dense, "gptq")
    wish(gptq.quantized, "gptq")


def test_biases_of_zeros_that_packers_add_are_no_matter(gptq: Twins) -> None:
    expected = logits(load_decoder(gptq.quantized))
    bias = {f"{QUERY}.bias".replace(".", "__"): torch.zeros(128)}
    change(gptq.quantized, **bias)
    assert torch.equal(logits(load_decoder(gptq.quantized)), expected)
    change(gptq.quantized, **{name: values + 1 for name, values in bias.items()})
    with pytest.raises(ModelUnreadable, match=rf"{QUERY}.bias holds numbers other than 0"):
        load_decoder(gptq.quantized)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (None, rf"lacks tensor {QUERY}.scales"),
        (torch.ones(2, 128), rf"tensor {QUERY}.scales is \[2, 128\]; .* implies \[4, 128\]"),
        (torch.full((4, 128), torch.nan), rf"{QUERY} is no gptq 4 bit.*scales holds NaN"),
    ],
    ids=["missing", "another shape", "not a number"],
)
def test_broken_tensors_are_named(gptq: Twins, tensor: torch.Tensor | None, said: str) -> None:
    change(gptq.quantized, **{f"{QUERY}.scales".replace(".", "__"): tensor})
    with pytest.raises(ModelUnreadable, match=said):
        load_decoder(gptq.quantized)


def test_a_quantized_tensor_in_a_dense_checkpoint_is_not_passed_over(gptq: Twins) -> None:
    change(gptq.dense, **{f"{QUERY}.qweight".replace(".", "__"): torch.zeros(2, dtype=torch.int32)})
    with pytest.raises(ModelUnreadable, match=rf"has tensor {QUERY}.qweight, which its config"):
        load_decoder(gptq.dense)


def test_scales_of_keys_and_values_are_found(gptq: Twins) -> None:
    scales = {"model.layers.1.self_attn.k_scale": 0.5, "model.layers.1.self_attn.v_scale": 0.25}
    change(
        gptq.quantized,
        **{name.replace(".", "__"): torch.tensor([scale]) for name, scale in scales.items()},
    )
    found = load(gptq.quantized, Wish(), torch.device("cpu"), lambda done, total: None).kv_scales
    assert found is not None
    assert found.tolist() == [[1.0, 1.0], [0.5, 0.25]]
