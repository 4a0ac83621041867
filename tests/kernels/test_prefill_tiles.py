"""Into which tiles the tokens of prompts are divided."""

import numpy as np
import torch

from aweigh_kernels.prefill_attention_gpu import Tiles

CPU = torch.device("cpu")


def test_tiles_that_see_most_come_first_and_hold_every_token_once() -> None:
    made = Tiles.of(([0, 100], [70, 5], [0, 900]), np.array([[1, 2], [3, 4]]), 32, None, CPU)
    assert made.tiles.tolist() == [[1, 100, 900, 5], [0, 64, 64, 6], [0, 32, 32, 32], [0, 0, 0, 32]]
    assert made.table.tolist() == [[1, 2], [3, 4]]


def test_a_window_bounds_what_a_tile_sees() -> None:
    made = Tiles.of(([0, 5], [5, 64], [900, 0]), np.zeros((2, 60), np.int64), 32, 16, CPU)
    assert made.tiles[:, 0].tolist() == [1, 1, 0]


def test_a_step_without_prompts_has_no_tiles() -> None:
    assert Tiles.of(([], [], []), np.zeros((0, 3), np.int64), 32, None, CPU).tiles.shape == (0, 4)
