"""Weights drawn from a generator instead of torch's global state."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from nnopt.checks import require_integer, require_non_empty, require_one_of, require_type

__all__ = ["built", "require_generator", "require_sizes"]

Model = TypeVar("Model", bound=nn.Module)


def require_generator(generator: object) -> None:
    """Refuse what is not a generator on the CPU, where every device gets the same weights."""
    require_type("generator", generator, torch.Generator)
    assert isinstance(generator, torch.Generator)
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be on cpu, got {generator.device}")


def require_sizes(name: str, sizes: Sequence[int], *, minimum: int = 1) -> None:
    """Refuse what is not a sequence of at least ``minimum`` positive integers."""
    require_type(name, sizes, Sequence)
    require_non_empty(name, sizes)
    for place, size in enumerate(sizes):
        require_integer(f"{name}[{place}]", size, minimum=1)
    if len(sizes) < minimum:
        raise ValueError(f"{name} must have >= {minimum} entries, got {list(sizes)}")


def built(build: Callable[[], Model], generator: torch.Generator, initialization: str = "default") -> Model:
    """Build a model without moving torch's global generator, and draw its linear layers and convolutions.

    ``default`` is torch's own formula and order, W and b ~ U(−1/√n, 1/√n) with n the fan-in, so equal seeds
    give torch's weights bit for bit; ``he`` is W ~ N(0, 2/n), b = 0. Normalization layers keep 1 and 0.
    """
    require_one_of("initialization", initialization, ("default", "he"))
    with torch.random.fork_rng(devices=[]):
        model = build()
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            _draw(layer, generator, initialization)
    return model


@torch.no_grad()
def _draw(layer: nn.Linear | nn.Conv2d, generator: torch.Generator, initialization: str) -> None:
    fan_in = layer.weight[0].numel()
    if initialization == "he":
        layer.weight.normal_(0.0, math.sqrt(2 / fan_in), generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()
        return
    # the gain of a leaky slope of √5 makes the bound 1/√n; written as torch does, so that no bit differs
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if layer.bias is not None:
        bound = 1 / math.sqrt(fan_in)
        layer.bias.uniform_(-bound, bound, generator=generator)
