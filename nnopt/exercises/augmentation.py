"""Exercises of the chapter ``data/augmentation``."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from ._verdict import Verdict

__all__ = ["ShiftFunction", "check_random_shift"]

ShiftFunction: TypeAlias = Callable[[Tensor, int, torch.Generator], Tensor]
"""(images, max_shift, generator) -> images."""

_FALSE_ALARM = 1e-9
_COUNT = 6000


def check_random_shift(candidate: ShiftFunction) -> Verdict:
    """Check a function that shifts every image of a batch by whole pixels of its own.

    Args:
        candidate: takes images (N, C, H, W), the largest shift in pixels and a generator that it has to draw
            from; returns images whose shifts, right and down, are each uniform on −max_shift … max_shift,
            with zeros where nothing was.

    Returns:
        A verdict that names the first fault. Counts of shifts are compared with exact binomial bounds: over its
        random draws, a right implementation is refused with a probability below 1e-7.
    """
    fault = next((fault for find in (_pixels, _law, _generators) for fault in find(candidate)), None)
    if fault is not None:
        return Verdict(False, fault)
    return Verdict(True, "Your shift moves every image by itself, to every place alike, and invents nothing.")


def _generator(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def _pixels(candidate: ShiftFunction) -> Iterator[str]:
    """Every result must be a shifted copy: find for each image the shift that explains it."""
    images = 1 + torch.rand(40, 2, 5, 6, generator=_generator(31))
    given = images.clone()
    shifted = candidate(given, 2, _generator(1))
    if not torch.equal(given, images):
        yield "Your function changes the images that it is given."
    if shifted.shape != images.shape:
        yield f"Your function returns the shape {tuple(shifted.shape)} for {tuple(images.shape)}."
        return
    for result, image in zip(shifted, images):
        copies = [_moved(image, right, down) for right in range(-2, 3) for down in range(-2, 3)]
        if not any(torch.allclose(result, copy, atol=1e-5) for copy in copies):
            # mean of the border: rolled pixels are still there, while a shift has lost some
            if torch.isclose(result.sum(), image.sum(), rtol=1e-6):
                yield "Your shift lets pixels come in again on the other side."
            yield "An image of yours is no shifted copy, with zeros behind it, by at most max_shift pixels."


def _law(candidate: ShiftFunction) -> Iterator[str]:
    from scipy.stats import binom

    dot = torch.zeros(_COUNT, 1, 5, 5)
    dot[:, :, 2, 2] = 1.0
    places = candidate(dot, 1, _generator(2)).flatten(1).argmax(1)
    counts = places.bincount(minlength=25).view(5, 5)[1:4, 1:4]
    if int((counts > 0).sum()) == 1:
        yield "All images of a batch are shifted alike."
        return
    low, high = binom.ppf((_FALSE_ALARM / 2, 1 - _FALSE_ALARM / 2), _COUNT, 1 / 9)
    for down, row in zip((-1, 0, 1), counts.tolist()):
        for right, count in zip((-1, 0, 1), row):
            if not low <= count <= high:
                share = f"{count / _COUNT:.3f} of the images, and not in a ninth"
                yield f"The shift {right:+d} to the right, {down:+d} down comes in {share}."


def _generators(candidate: ShiftFunction) -> Iterator[str]:
    images = 1 + torch.rand(40, 1, 5, 5, generator=_generator(32))
    generator = _generator(3)
    first, second = (candidate(images.clone(), 2, generator) for _ in range(2))
    if torch.equal(first, second):
        yield "Two calls in a row shift alike."
    if not torch.equal(candidate(images.clone(), 2, _generator(3)), first):
        yield "Equal generators give different shifts: the randomness comes from somewhere else."


def _moved(image: Tensor, right: int, down: int) -> Tensor:
    height, width = image.shape[1:]
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    return padded[:, 2 - down : 2 - down + height, 2 - right : 2 - right + width]
