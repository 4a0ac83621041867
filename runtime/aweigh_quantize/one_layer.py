"""One decoder layer in memory, in fp32, with its matrices in the order in which it uses them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from aweigh_kernels.weight import Weight
from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.observation import Observer, Part, Watch
from aweigh_runtime.formats.kv_scales import written_names
from aweigh_runtime.formats.layout import Quantization
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.layers import Layer
from aweigh_runtime.model.mapped import FORMATS, fill, rows_of
from aweigh_runtime.model.placement import Place, layer_places
from aweigh_runtime.model.storage import Storage

_ROUTER = ".router.weight"  # of experts: small, and every token's way hangs on it


@dataclass(frozen=True, slots=True)
class Matrix:
    """What a checkpoint stores as one matrix."""

    place: Place
    module: str  # its name in the checkpoint, without `.weight`
    values: torch.Tensor  # [N, K], fp32: rows of a weight of the layer
    product: int  # address of the matrix that the layer multiplies with

    @property
    def shape(self) -> tuple[int, int]:
        """N, K."""
        return self.values.shape[0], self.values.shape[1]


class OneLayer:
    """Dense when it is made; its matrices become quantized one after the other."""

    def __init__(self, checkpoint: Checkpoint, index: int, device: torch.device) -> None:
        config = checkpoint.config
        self.places = list(layer_places(config, config.layers[index], index))
        self.watch = Watch()
        storage = Storage(torch.float32, device, self.watch)
        rope = config.ropes.index(config.layers[index].rope)
        self.run = Layer(config, config.layers[index], rope, storage.within(f"layers.{index}"))
        self.weights = storage.weights
        checkpoint.fill(self.weights, self.places)
        self.matrices = [
            self._matrix(checkpoint, place) for place in self.places if is_matrix(place)
        ]
        self.quantized: dict[str, Weight] = {}  # by module
        self.cache_scales: torch.Tensor | None = None  # [2], of keys and values
        self.has_experts = config.layers[index].experts is not None
        self.attention = self._attention(checkpoint)
        self._stored = checkpoint.stored
        self._changed: list[Place] = []  # small tensors that scales were folded into

    def stages(self) -> list[list[Matrix]]:
        """Matrices that see the same inputs, or experts side by side, in the order of use."""
        found: dict[str, list[Matrix]] = {}
        for matrix in self.matrices:
            found.setdefault(matrix.place.weight, []).append(matrix)
        return list(found.values())

    @contextmanager
    def observed(self, observers: Mapping[int, Observer]) -> Iterator[None]:
        """Show the inputs of some products, by address, and compute nothing behind the last."""
        stages = [{each.product for each in stage} for stage in self.stages()]
        last = max(i for i, stage in enumerate(stages) if not stage.isdisjoint(observers))
        self.watch.observers.update(observers)
        experts = any(each.place.expert is not None for each in self.stages()[last])
        # One expert is computed to its end before the next one begins.
        self.watch.beyond = frozenset() if experts else frozenset().union(*stages[last + 1 :])
        yield
        self.watch.observers.clear()
        self.watch.beyond = frozenset()

    def values(self) -> dict[str, torch.Tensor]:
        """The matrices as they are now, by module: copies."""
        return {matrix.module: matrix.values.clone() for matrix in self.matrices}

    def divide_norm(self, weight: str, scales: torch.Tensor) -> torch.Tensor:
        """Fold scales [K] into a norm: those that it then really has, as it is stored rounded."""
        place = next(place for place in self.places if place.weight == weight)
        before = self.weights[weight].clone()
        self._store(place, before / scales)
        after = self.weights[weight]
        return torch.where((before == 0) | (after == 0), torch.ones_like(scales), before / after)

    def divide_bias(self, matrix: Matrix, rows: slice, scales: torch.Tensor) -> None:
        """Divide rows of a matrix's bias by scales, if it has one."""
        name = f"{matrix.place.module}.bias"
        place = next((place for place in self.places if place.name == name), None)
        if place is not None:
            values = rows_of(self.weights[place.weight], place).clone()
            values[rows] /= scales
            self._store(place, values)

    def train(self, values: Mapping[str, Callable[[], torch.Tensor]]) -> dict[str, torch.Tensor]:
        """From now on compute with matrices that change, by module.

        Returns:
            The weights of norms, which gradients reach now, too.
        """
        for product in {each.product for each in self.matrices if each.module in values}:
            rows = [each for each in self.matrices if each.product == product]
            parts = [values.get(each.module, partial(_same, each.values)) for each in rows]
            self.watch.trained[product] = partial(_joined, parts)
        norms = [place for place in self.places if is_norm(place)]
        return {place.weight: self.weights[place.weight].requires_grad_() for place in norms}

    def trained(self, weights: Mapping[str, Weight]) -> None:
        """Training is over."""
        self.watch.trained.clear()
        for place in filter(is_norm, self.places):
            self._store(place, self.weights[place.weight].requires_grad_(False).clone())
        for matrix in self.matrices:
            if matrix.module in weights:
                self.put(matrix, weights[matrix.module])

    def change(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take small tensors as they are stored, by the checkpoint's own names."""
        for place in self.places:
            values = tensors.get(self._stored[place.name].name)
            if values is not None:
                fill(self.weights[place.weight], place, values)
                self._changed.append(place)

    def tensors(self, quantization: Quantization) -> dict[str, torch.Tensor]:
        """What files hold in place of the dense matrices, and what else has changed."""
        found: dict[str, torch.Tensor] = {}
        for module, weight in self.quantized.items():
            layout = quantization.layout_of(module)
            assert layout is not None, f"{module} is declared dense"
            parts = layout.write(weight)
            found |= {f"{module}.{part}": values for part, values in parts.items()}
        if self.cache_scales is not None:
            names = written_names(self.attention)
            found |= dict(zip(names, self.cache_scales[:, None].cpu().unbind(), strict=True))
        for place in self._changed:  # scales were folded into it
            stored = self._stored[place.name]
            values = rows_of(self.weights[place.weight], place) - place.added
            found[stored.name] = values.to(FORMATS[stored.dtype])
        return found

    def _store(self, place: Place, values: torch.Tensor) -> None:
        """Take values as they will be read again: rounded to the tensor's number format."""
        dtype = FORMATS[self._stored[place.name].dtype]
        fill(self.weights[place.weight], place, (values - place.added).to(dtype))
        if place not in self._changed:
            self._changed.append(place)

    def put(self, matrix: Matrix, weight: Weight) -> None:
        """From now on the layer computes with a quantized weight."""
        matrix.values.copy_(weight.dense())
        self.quantized[matrix.module] = weight
        parts = [each for each in self.matrices if each.product == matrix.product]
        self.watch.parts[matrix.product] = [
            Part(each.shape[0], self.quantized.get(each.module)) for each in parts
        ]

    def _attention(self, checkpoint: Checkpoint) -> str:
        """What the checkpoint calls the module that keys and values belong to."""
        out = f".{checkpoint.config.names.out}"
        return next(
            each.module.rpartition(".")[0]
            for each in self.matrices
            if each.place.module.endswith(out)
        )

    def _matrix(self, checkpoint: Checkpoint, place: Place) -> Matrix:
        weight = self.weights[place.weight]
        whole = weight if place.expert is None else weight[place.expert]
        module = checkpoint.module(place)
        return Matrix(place, module, rows_of(weight, place), whole.data_ptr())


def is_norm(place: Place) -> bool:
    """Whether a tensor is the weight of a norm over the hidden dimension."""
    return place.weight.endswith("norm.weight") and place.repeats is None


def _same(values: torch.Tensor) -> torch.Tensor:
    return values


def _joined(parts: Sequence[Callable[[], torch.Tensor]]) -> torch.Tensor:
    return torch.cat([part() for part in parts])


def is_matrix(place: Place) -> bool:
    """Whether a tensor of a layer can be quantized."""
    return place.matrix and not place.weight.endswith(_ROUTER)


def layer_matrices(config: ModelConfig) -> Iterator[Place]:
    """Every tensor of a model that can be quantized."""
    for index, layer in enumerate(config.layers):
        yield from filter(is_matrix, layer_places(config, layer, index))


def routers(config: ModelConfig) -> Iterator[Place]:
    """Every tensor that decides which experts get a token."""
    for index, layer in enumerate(config.layers):
        for place in layer_places(config, layer, index):
            if place.weight.endswith(_ROUTER):
                yield place
