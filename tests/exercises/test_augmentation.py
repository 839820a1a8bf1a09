"""The checker accepts every right random shift and names the fault of each planted wrong one."""

import pytest
import torch
from torch import Tensor

from nnopt import exercises
from nnopt.data import random_affine
from nnopt.exercises import ShiftFunction


def ours(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    return random_affine(images, max_shift=max_shift, whole_pixels=True, generator=generator)


def draws(images: Tensor, max_shift: int, generator: torch.Generator, extra: int = 1) -> Tensor:
    return torch.randint(-max_shift, max_shift + extra, (len(images), 2), generator=generator)


def moved(images: Tensor, shifts: Tensor) -> Tensor:
    reach = int(shifts.abs().max())
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, (reach, reach, reach, reach))
    return torch.stack(
        [
            p[:, reach - d : reach - d + height, reach - r : reach - r + width]
            for p, (r, d) in zip(padded, shifts.tolist())
        ]
    )


def by_slices(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    return moved(images, draws(images, max_shift, generator))


@pytest.mark.parametrize("right", [ours, by_slices])
def test_right_implementations_pass(right: ShiftFunction) -> None:
    assert exercises.check_random_shift(right)


def rolled(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    shifts = draws(images, max_shift, generator).tolist()
    return torch.stack([image.roll((d, r), (1, 2)) for image, (r, d) in zip(images, shifts)])


def in_place(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    return images.copy_(by_slices(images, max_shift, generator))


def from_elsewhere(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    return moved(images, torch.randint(-max_shift, max_shift + 1, (len(images), 2)))


WRONG: dict[str, tuple[ShiftFunction, str]] = {
    "wraps around": (rolled, "come in again on the other side"),
    "one shift for the batch": (
        lambda x, m, g: moved(x, draws(x[:1], m, g).expand(len(x), 2)),
        "All images of a batch are shifted alike",
    ),
    "the largest shift is left out": (lambda x, m, g: moved(x, draws(x, m, g, 0)), "down comes in 0.2"),
    "one direction only": (lambda x, m, g: moved(x, draws(x, m, g) * torch.tensor([1, 0])), "comes in 0.000"),
    "the same shift right and down": (lambda x, m, g: moved(x, draws(x, m, g)[:, :1].expand(-1, 2)), "comes in"),
    "between pixels": (lambda x, m, g: random_affine(x, max_shift=m, generator=g), "is no shifted copy"),
    "in place": (in_place, "changes the images that it is given"),
    "padded": (lambda x, m, g: torch.nn.functional.pad(x, (m, m, m, m)), "returns the shape"),
    "a generator of its own": (
        lambda x, m, g: by_slices(x, m, torch.Generator().manual_seed(1)),
        "Two calls in a row",
    ),
    "global randomness": (from_elsewhere, "somewhere else"),
    "nothing": (lambda x, m, g: x, "All images of a batch are shifted alike"),
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_implementations_are_named(name: str) -> None:
    wrong, sentence = WRONG[name]
    with torch.random.fork_rng(devices=[]):
        verdict = exercises.check_random_shift(wrong)
    assert not verdict
    assert sentence in verdict.sentence
