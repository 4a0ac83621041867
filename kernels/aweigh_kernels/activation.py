"""What opens the gates of an MLP."""

from typing import Literal

Activation = Literal["silu", "gelu_pytorch_tanh"]
