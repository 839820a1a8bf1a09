"""The checker accepts every right dropout and names the fault of each planted wrong one."""

import pytest
import torch
from torch import Tensor

from nnopt import exercises
from nnopt.exercises import DropoutFunction
from nnopt.regularization import drop_path, dropout


def ours(x: Tensor, p: float, training: bool, generator: torch.Generator) -> Tensor:
    return dropout(x, p, generator=generator) if training else x


def by_hand(x: Tensor, p: float, training: bool, generator: torch.Generator) -> Tensor:
    if not training:
        return x
    return torch.where(torch.rand(x.shape, generator=generator) < p, torch.zeros_like(x), x / (1 - p))


@pytest.mark.parametrize("right", [ours, by_hand])
def test_right_implementations_pass(right: DropoutFunction) -> None:
    verdict = exercises.check_dropout(right)
    assert verdict
    assert "right scale" in verdict.sentence


def kept(shape: torch.Size | tuple[int, ...], p: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) >= p).double()


def in_place(x: Tensor, p: float, training: bool, generator: torch.Generator) -> Tensor:
    return x.mul_(kept(x.shape, p, generator) / (1 - p)) if training else x


def fewer_columns(x: Tensor, p: float, training: bool, generator: torch.Generator) -> Tensor:
    return x[:, kept(x.shape[1:], p, generator) > 0] / (1 - p) if training else x


def noise(x: Tensor, p: float, training: bool, generator: torch.Generator) -> Tensor:
    return x * (1 + torch.randn(x.shape, generator=generator)) if training else x


WRONG: dict[str, tuple[DropoutFunction, str]] = {
    "no 1/(1 - p)": (
        lambda x, p, training, g: x * kept(x.shape, p, g) if training else x,
        "multiplied by 1.000, and 1/(1 − p) is 1.333",
    ),
    "1/p": (
        lambda x, p, training, g: x * kept(x.shape, p, g) / p if training and p else x,
        "multiplied by 4.000",
    ),
    "scaled at test time instead": (
        lambda x, p, training, g: x * kept(x.shape, p, g) if training else x * (1 - p),
        "In evaluation mode",
    ),
    "active in evaluation": (lambda x, p, training, g: x * kept(x.shape, p, g) / (1 - p), "In evaluation mode"),
    "never active": (lambda x, p, training, g: x, "multiplied by 1.000"),
    "scales only": (lambda x, p, training, g: x / (1 - p) if training else x, "drops nothing"),
    "keeps with probability p": (
        lambda x, p, training, g: x * kept(x.shape, 1 - p, g) / (1 - p) if training else x,
        "drops 0.7",
    ),
    "one mask for the batch": (
        lambda x, p, training, g: x * kept(x.shape[1:], p, g) / (1 - p) if training else x,
        "Different rows",
    ),
    "one draw for a row": (
        lambda x, p, training, g: drop_path(x, p, generator=g) if training else x,
        "Different columns",
    ),
    "the same mask at every call": (
        lambda x, p, training, g: x * kept(x.shape, p, torch.Generator().manual_seed(1)) / (1 - p) if training else x,
        "Two calls in a row",
    ),
    "global randomness": (
        lambda x, p, training, g: torch.nn.functional.dropout(x, p, training),
        "somewhere else",
    ),
    "in place": (in_place, "changes the tensor that it is given"),
    "removes columns": (fewer_columns, "returns the shape"),
    "noise": (noise, "scales some of the kept values more"),
    "drops everything": (lambda x, p, training, g: x * 0 if training else x, "drops everything"),
    "not finite": (lambda x, p, training, g: x / 0 if training else x, "not finite"),
    "drops at p = 0": (
        lambda x, p, training, g: dropout(x, max(p, 0.1), generator=g) * (1 - max(p, 0.1)) / (1 - p) if training else x,
        "At p = 0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_implementations_are_named(name: str) -> None:
    wrong, sentence = WRONG[name]
    with torch.random.fork_rng(devices=[]):
        verdict = exercises.check_dropout(wrong)
    assert not verdict
    assert sentence in verdict.sentence
