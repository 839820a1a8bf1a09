"""A multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from nnopt.checks import require_one_of

from ._initialization import built, require_generator, require_sizes

__all__ = ["mlp"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def mlp(
    sizes: Sequence[int],
    *,
    generator: torch.Generator,
    activation: str = "relu",
    initialization: str = "default",
) -> nn.Sequential:
    """Return a stack of linear layers with an activation between them; it flattens its input.

    h₀ = flatten(x), hₗ = φ(Wₗ hₗ₋₁ + bₗ), and no φ after the last layer.

    Args:
        sizes: width of the input, of every hidden layer and of the output.
        generator: on the CPU, draws the weights: every device gets the same ones.
        activation: ``relu`` or ``tanh``.
        initialization: ``default`` is torch's (U(±1/√fan-in)), ``he`` is N(0, 2/fan-in) with zero biases.

    Returns:
        On the CPU, float32; maps (B, ...) to (B, ``sizes[-1]``), logits if it is to classify.

    Raises:
        ValueError: fewer than two sizes, one below 1, or an unknown name.
        TypeError: a size is no integer, or the generator no generator.

    Example:
        >>> model = mlp([64, 32, 10], generator=torch.Generator().manual_seed(0))
        >>> sum(p.numel() for p in model.parameters())
        2410
    """
    require_generator(generator)
    require_sizes("sizes", sizes, minimum=2)
    require_one_of("activation", activation, tuple(_ACTIVATIONS))

    def build() -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in pairwise(sizes):
            layers += [nn.Linear(width_in, width_out), _ACTIVATIONS[activation]()]
        return nn.Sequential(*layers[:-1])

    return built(build, generator, initialization)
