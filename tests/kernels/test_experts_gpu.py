"""Routing and grouped products on a GPU, beside each pair's product by its own expert."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from aweigh_kernels.expert_stack import DenseStack, Stack, stack_of
from aweigh_kernels.fp8_weight import Fp8Activation, Fp8Weight
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.grouped_matmul import shared_on
from aweigh_kernels.int8_weight import Int8Activation
from aweigh_kernels.routing import MOST_EACH, Routed, add_weighted, reference, route
from aweigh_kernels.weight import Weight, rounded
from tests.kernels.exact import FP32, ROUNDED
from tests.kernels.routed import chosen_by
from tests.kernels.test_byte_matmul_gpu import TENSOR_CORES, on_gpu
from tests.kernels.weights import Draw

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", 0)
NAN = float("nan")
TOKEN, GROUP = (Fp8Activation(rounding=by) for by in ("token", "group"))
STATIC = Fp8Activation(rounding="static", scale=torch.tensor(0.03))
KINDS: dict[str, Callable[[Draw, int, int], Weight]] = {
    "int4 g128": lambda draw, rows, columns: draw.ints(rows, columns, 4, 128),
    "int4 g32 zeros": lambda draw, rows, columns: draw.ints(rows, columns, 4, 32, asymmetric=True),
    "int3": lambda draw, rows, columns: draw.ints(rows, columns, 3, 64),
    "int8 g64": lambda draw, rows, columns: draw.ints(rows, columns, 8, 64),
    "fp8 alone": lambda draw, rows, columns: draw.fp8(rows, columns),
    "fp8 blocks alone": lambda draw, rows, columns: draw.fp8(rows, columns, blocks=True),
    "fp8 token": lambda draw, rows, columns: draw.fp8(rows, columns, TOKEN),
    "fp8 static": lambda draw, rows, columns: draw.fp8(rows, columns, STATIC),
    "fp8 blocks": lambda draw, rows, columns: draw.fp8(rows, columns, GROUP, blocks=True),
    "int8 zeros": lambda draw, rows, columns: draw.int8(
        rows, columns, Int8Activation(symmetric=False)
    ),
}
DENSE = "dense"


class Case:
    """A matrix for each expert, and tokens; the first expert gets none, the second one of them."""

    def __init__(
        self,
        tokens: int,
        kind: str = DENSE,
        *,
        experts: tuple[int, int] = (8, 2),
        shape: tuple[int, int] = (300, 264),
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        draw = Draw(tokens + sum(shape))
        (count, self.each), (rows, columns) = experts, shape
        self.weights: list[Weight] = []
        if kind == DENSE:
            self.dense = draw.normal(count, rows, columns).to(DEVICE, dtype)
            self.stack: Stack = DenseStack(self.dense)
        else:
            drawn = [KINDS[kind](draw, rows, columns) for _ in range(count)]
            self.of_cpu = drawn[0]
            self.weights = [on_gpu(weight) for weight in drawn]
            self.dense = torch.stack([weight.dense() for weight in self.weights])
            stack = stack_of(self.weights[0], count, dtype)
            assert stack is not None
            assert all(stack.put(place, weight) for place, weight in enumerate(self.weights))
            self.stack = stack
        self.logits = draw.normal(tokens, count).to(DEVICE, dtype)
        self.logits[:, :2] = -torch.inf
        self.logits[0, 1] = 100
        self.x = draw.normal(tokens, columns).to(DEVICE, dtype)
        self.of_pairs = draw.normal(tokens * self.each, columns).to(DEVICE, dtype)
        self.routed = self.route()

    def route(self) -> Routed:
        return route(self.logits, self.each, normalized=True)

    def check(self, x: torch.Tensor) -> None:
        """As exact as sums of such numbers can be, rounded once."""
        found = self.stack(x, self.routed)
        assert not shared_on(DEVICE).arrived.any()
        num_pairs = self.routed.num_pairs
        # By the CPU, as whose bits they are rounded: torch on a GPU divides by a number otherwise.
        inputs = (rounded(x.cpu(), self.of_cpu).to(DEVICE) if self.weights else x).double()
        inputs = inputs.repeat_interleave(num_pairs // max(len(x), 1), 0)
        chosen = chosen_by(self.routed)
        eights = bool(self.weights) and isinstance(self.weights[0], Fp8Weight)
        lost = TENSOR_CORES if eights else FP32
        for expert in range(len(self.dense)):
            own = (chosen == expert).nonzero()[:, 0].to(DEVICE)
            dense = self.dense[expert].double().T
            exact, sums = inputs[own] @ dense, inputs[own].abs() @ dense.abs()
            error = (found[own].double() - exact).abs()
            allowed = ROUNDED[x.dtype] * exact.abs() + lost * sums + 1e-6
            assert bool((error <= allowed).all()), (expert, len(own), error.max())


@contextmanager
def captured() -> Iterator[torch.cuda.CUDAGraph]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        yield graph


@pytest.mark.parametrize("count", [1, 5, 8, 128, 1000])
def test_tokens_go_where_torch_sends_them_and_of_equal_experts_to_the_first(count: int) -> None:
    for tokens in (1, 2, 17, 64, 500, 4096):
        each = min(count, 8)
        chance = torch.Generator(DEVICE).manual_seed(tokens)
        shape = tokens, count
        logits = torch.randint(-40, 40, shape, generator=chance, device=DEVICE) / 8
        for normalized in (False, True):
            routed = route(logits.bfloat16(), each, normalized=normalized)
            weights, _ = reference(logits, each, normalized=normalized)
            torch.testing.assert_close(routed.weights, weights)
            first = logits.sort(dim=-1, descending=True, stable=True).indices[:, :each]
            assert torch.equal(chosen_by(routed).view(-1, each), first.cpu())


def test_more_experts_than_a_token_can_have_are_refused() -> None:
    logits = torch.zeros(3, 64, device=DEVICE)
    with pytest.raises(
        ValueError, match=rf"a token has 40 of 64 experts; expected 1 to {MOST_EACH}"
    ):
        route(logits, 40, normalized=True)


@pytest.mark.parametrize("kind", [DENSE, *KINDS])
def test_each_pair_is_multiplied_by_its_own_experts_matrix(kind: str) -> None:
    for tokens in (1, 3, 40, 300, 1500):
        for shape in ((300, 264), (64, 2048)):
            case = Case(tokens, kind, shape=shape)
            case.check(case.x)
            case.check(case.of_pairs)


@pytest.mark.parametrize("kind", [DENSE, "int4 g128", "fp8 token", "fp8 blocks"])
@pytest.mark.parametrize("experts", [(128, 8), (5, 3)], ids=str)
def test_any_number_of_experts(kind: str, experts: tuple[int, int]) -> None:
    for tokens in (1, 16, 64, 700):
        case = Case(tokens, kind, experts=experts, shape=(192, 256))
        case.check(case.x)


def test_matrices_of_fp16() -> None:
    for kind in (DENSE, "int4 g128", "fp8 alone"):
        case = Case(50, kind, dtype=torch.float16)
        case.check(case.x)


@pytest.mark.parametrize("kind", [DENSE, "int4 g128", "fp8 blocks"])
def test_the_matrices_of_mixtral(kind: str) -> None:
    for tokens, shape in ((1, (4096, 14_336)), (64, (28_672, 4096))):
        case = Case(tokens, kind, experts=(4, 2), shape=shape)
        case.check(case.x)
        case.check(case.of_pairs)


@pytest.mark.parametrize("kind", [DENSE, "int4 g128", "fp8 token", "fp8 blocks", "int8 zeros"])
def test_a_token_without_numbers_leaves_the_others_alone(kind: str) -> None:
    for tokens in (5, 64, 300):
        case = Case(tokens, kind)
        whole = case.stack(case.x, case.routed)
        case.x[1] = NAN
        found = case.stack(case.x, case.routed).view(tokens, case.each, -1)
        others = torch.arange(tokens, device=DEVICE) != 1
        assert torch.equal(found[others], whole.view_as(found)[others])
        assert bool(found[1].isnan().all())
        case.logits[1] = NAN
        routed = case.route()
        assert bool(routed.weights[1].isnan().all())
        assert torch.equal(routed.weights[others], case.routed.weights[others])
        chosen, before = (chosen_by(each).view(tokens, -1) for each in (routed, case.routed))
        assert torch.equal(chosen[others.cpu()], before[others.cpu()])


@pytest.mark.parametrize("kind", [DENSE, "int4 g128", "fp8 token"])
def test_a_graph_follows_wherever_tokens_go(kind: str) -> None:
    case = Case(33, kind, shape=(512, 1024))

    def step() -> tuple[Routed, torch.Tensor]:
        routed = case.route()
        return routed, add_weighted(case.stack(case.x, routed), routed.weights)

    step()
    with captured() as graph:
        routed, output = step()
    chance = torch.Generator(DEVICE).manual_seed(3)
    for spread in (0.0, 1.0, 100.0, 1.0):
        case.logits.normal_(generator=chance).mul_(spread)
        case.x.normal_(generator=chance)
        graph.replay()
        again, expected = step()
        assert torch.equal(chosen_by(routed), chosen_by(again))
        assert torch.equal(output, expected)


def test_products_repeat_to_the_bit() -> None:
    for kind in (DENSE, "int4 g128", "fp8 token"):
        case = Case(3, kind, shape=(256, 4096))  # rows are shared
        first = case.stack(case.x, case.routed)
        for _ in range(20):
            assert torch.equal(case.stack(case.x, case.routed), first)


def test_what_experts_found_is_added_in_the_order_of_their_weights() -> None:
    for tokens, each, size in ((1, 2, 4096), (77, 8, 1000), (0, 2, 64)):
        rows = Draw(tokens).normal(tokens * each, size).to(DEVICE, torch.bfloat16)
        weights = Draw(size).normal(tokens, each).to(DEVICE)
        exact = (rows.double().view(tokens, each, size) * weights.double()[..., None]).sum(1)
        torch.testing.assert_close(
            add_weighted(rows, weights).double(), exact, rtol=2**-8, atol=1e-5
        )


def test_a_stack_takes_weights_of_its_own_kind_alone() -> None:
    draw = Draw()
    ints, other = (on_gpu(draw.ints(64, 256, 4, group)) for group in (128, 64))
    stack = stack_of(ints, 2, torch.bfloat16)
    assert stack is not None
    assert stack.put(0, ints)
    assert not stack.put(1, other)
    x = draw.normal(5, 256).to(DEVICE, torch.bfloat16)
    for product in (stack.one(0), stack.copied(0)):
        torch.testing.assert_close(
            product(x).float(), x.float() @ ints.dense().T, rtol=0.01, atol=0.1
        )
    ordered = on_gpu(draw.ints(64, 256, 4, 128, act_order=True))
    assert not stack.put(1, ordered)
    assert stack_of(ordered, 2, torch.bfloat16) is None
    token, static = (on_gpu(draw.fp8(64, 256, each)) for each in (TOKEN, STATIC))
    if Gpu.of(DEVICE).fp8:
        eights = stack_of(token, 2, torch.bfloat16)
        assert eights is not None
        assert not eights.put(0, static)
    assert stack_of(on_gpu(draw.fp4(64, 256)), 2, torch.bfloat16) is None
