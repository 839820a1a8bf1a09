"""Augmentation: by hand, against torchvision, by its laws; on every device and in both modes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as theirs

from nnopt.data import (
    Augment,
    add_noise,
    affine_matrices,
    digits,
    erase,
    flip,
    random_affine,
    random_erase,
    random_flip,
    warp,
)
from nnopt.devices import available_devices
from nnopt.models import mlp
from nnopt.seeding import seeds
from nnopt.training import evaluation_mode, sweep


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def images_of(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=dtype)


def parameters(count: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draws = torch.rand(count, 6, generator=seeded(seed), dtype=dtype)
    angles, shifts = 360 * draws[:, 0] - 180, 6 * draws[:, 1:3] - 3
    return angles, shifts, 0.6 + draws[:, 3], 60 * draws[:, 4:] - 30


def identity(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    zeros = torch.zeros(count, 2, dtype=torch.float64)
    return zeros[:, 0].clone(), zeros.clone(), torch.ones(count, dtype=torch.float64), zeros.clone()


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("shape", [(12, 1, 8, 8), (12, 3, 7, 11), (12, 2, 10, 5)])
def test_a_batch_equals_torchvisions_affine_image_by_image(
    shape: tuple[int, ...], mode: str, device: torch.device
) -> None:
    images = images_of(*shape).to(device)
    given_ = parameters(len(images))
    ours = warp(images, affine_matrices(*given_).to(device), mode=mode)
    angles, shifts, scales, shears = given_
    for i, image in enumerate(images):
        other = theirs.affine(
            image, angle=angles[i].item(), translate=shifts[i].tolist(), scale=scales[i].item(),
            shear=shears[i].tolist(), interpolation=InterpolationMode(mode),
        )  # fmt: skip
        torch.testing.assert_close(ours[i], other, rtol=0, atol=1e-5)


def by_loops(image: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear resampling with scalars: each pixel asks the matrix where it comes from."""
    height, width = image.shape
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            v = torch.tensor([column - (width - 1) / 2, row - (height - 1) / 2, 1.0], dtype=torch.float64)
            x, y = (matrix @ v).tolist()
            x, y = x + (width - 1) / 2, y + (height - 1) / 2
            left, top = math.floor(x), math.floor(y)
            for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                if 0 <= r < height and 0 <= c < width:
                    result[row, column] += image[r, c] * (1 - abs(x - c)) * (1 - abs(y - r))
    return result


def test_the_resampling_follows_its_definition_pixel_by_pixel() -> None:
    images = images_of(5, 1, 5, 7)
    matrices = affine_matrices(*parameters(5))
    result = warp(images, matrices)
    for i in range(5):
        torch.testing.assert_close(result[i, 0], by_loops(images[i, 0], matrices[i]), rtol=0, atol=1e-12)


def test_one_pixel_goes_where_it_should() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    image[0, 0, 1, 2] = 1.0  # one above the center
    angles, shifts, scales, shears = identity(1)

    def place(moved: Tensor) -> list[int]:
        where: list[int] = (moved[0, 0] > 0.99).nonzero()[0].tolist()
        return where

    assert place(warp(image, affine_matrices(angles, shifts + torch.tensor([1.0, 2.0]), scales, shears))) == [3, 3]
    assert place(warp(image, affine_matrices(angles + 90, shifts, scales, shears))) == [2, 3]  # clockwise: to the right
    assert place(warp(image, affine_matrices(angles, shifts, 2 * scales, shears))) == [0, 2]


def test_the_identity_changes_nothing() -> None:
    images = images_of(4, 3, 6, 9)
    torch.testing.assert_close(warp(images, affine_matrices(*identity(4))), images, rtol=0, atol=1e-12)


@given(st.integers(-3, 3), st.integers(-3, 3))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_whole_shifts_are_exact_copies_with_zeros_behind_them(right: int, down: int) -> None:
    images = images_of(2, 2, 6, 8)
    angles, shifts, scales, shears = identity(2)
    moved = warp(images, affine_matrices(angles, shifts + torch.tensor([right, down]), scales, shears))
    padded = nn.functional.pad(images, (3, 3, 3, 3))
    expected = padded[:, :, 3 - down : 9 - down, 3 - right : 11 - right]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_four_right_angles_are_the_identity_and_each_is_torchs() -> None:
    images = images_of(3, 1, 8, 8)
    angles, shifts, scales, shears = identity(3)
    turned = warp(images, affine_matrices(angles + 90, shifts, scales, shears))
    torch.testing.assert_close(turned, torch.rot90(images, -1, (2, 3)), rtol=0, atol=1e-12)


def test_gradients_flow_to_the_images() -> None:
    matrices = affine_matrices(*parameters(2))
    images = images_of(2, 1, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: warp(x, matrices), (images,))


def test_the_planted_fault_of_a_forward_matrix_is_seen() -> None:
    """The matrix must say where a pixel comes from: the inverse of where it goes."""
    images, (angles, shifts, scales, shears) = images_of(2, 1, 8, 8), identity(2)
    right = warp(images, affine_matrices(angles, shifts + 1.0, scales, shears))
    wrong = warp(images, affine_matrices(angles, shifts - 1.0, scales, shears))
    assert not torch.allclose(right, wrong)
    torch.testing.assert_close(right[:, :, 1:, 1:], images[:, :, :-1, :-1], rtol=0, atol=1e-12)


def test_flips_equal_torchvisions_where_the_mask_says_so() -> None:
    images = images_of(5, 3, 4, 7)
    mask = torch.tensor([True, False, True, True, False])
    flipped = flip(images, mask)
    assert torch.equal(flipped[mask], theirs.horizontal_flip(images[mask]))
    assert torch.equal(flipped[~mask], images[~mask])
    assert torch.equal(flip(flipped, mask), images)


def test_erasing_equals_torchvisions_image_by_image() -> None:
    images = images_of(4, 3, 6, 9)
    boxes = torch.tensor([[0, 0, 6, 9], [1, 2, 3, 4], [5, 8, 1, 1], [2, 2, 0, 3]])
    erased = erase(images, boxes, value=0.5)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        other = theirs.erase(images[i], top, left, height, width, v=torch.full((3, 1, 1), 0.5, dtype=torch.float64))
        assert torch.equal(erased[i], other)
    assert torch.equal(erased[3], images[3])


def test_a_box_beyond_the_image_is_cut() -> None:
    erased = erase(torch.ones(1, 1, 3, 3), torch.tensor([[2, 1, 9, 9]]))
    assert erased[0, 0].tolist() == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]


def test_random_affine_is_the_warp_by_what_it_draws() -> None:
    images = images_of(6, 1, 8, 8)
    draws = torch.rand(6, 6, generator=seeded(4), dtype=torch.float64)
    angles, shifts = (2 * draws[:, 0] - 1) * 20, (2 * draws[:, 1:3] - 1) * 1.5
    matrices = affine_matrices(angles, shifts, 0.8 + 0.4 * draws[:, 3], (2 * draws[:, 4:] - 1) * 10)
    result = random_affine(
        images, degrees=20, max_shift=1.5, scale=(0.8, 1.2), shear=10, generator=seeded(4)
    )  # fmt: skip
    torch.testing.assert_close(result, warp(images, matrices), rtol=0, atol=1e-12)


def test_whole_pixel_shifts_are_equally_likely() -> None:
    """Each of nine shifts, with exact binomial bounds: one false alarm in a million seeds."""
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1.0
    count = 9000
    moved = random_affine(image.expand(count, 1, 5, 5), max_shift=1, whole_pixels=True, generator=seeded(0))
    places = moved.flatten(1).round().argmax(1)
    assert torch.equal(moved.flatten(1).amax(1).round(), torch.ones(count))
    low, high = binom.ppf([1e-6 / 18, 1 - 1e-6 / 18], count, 1 / 9)
    counts = places.bincount(minlength=25).view(5, 5)[1:4, 1:4]
    assert int(counts.sum()) == count
    assert bool(((counts >= low) & (counts <= high)).all())


def test_every_image_gets_draws_of_its_own() -> None:
    images = images_of(1, 1, 8, 8).expand(50, 1, 8, 8)
    for result in (
        random_affine(images, degrees=30, generator=seeded(1)),
        random_erase(images, probability=1.0, generator=seeded(1)),
        add_noise(images, std=0.1, generator=seeded(1)),
    ):
        assert len(result.flatten(1).unique(dim=0)) > 40
    assert len(random_flip(images, generator=seeded(1)).flatten(1).unique(dim=0)) == 2


def test_flips_and_erasures_happen_as_often_as_asked() -> None:
    images = images_of(1, 1, 4, 4).expand(4000, 1, 4, 4)
    low, high = binom.ppf([5e-7, 1 - 5e-7], 4000, 0.3)
    for result in (
        random_flip(images, probability=0.3, generator=seeded(2)),
        random_erase(images, probability=0.3, generator=seeded(3), value=7.0),
    ):
        changed = int((result != images).flatten(1).any(1).sum())
        assert low <= changed <= high


def test_erased_areas_and_shapes_lie_in_their_ranges() -> None:
    images = torch.ones(500, 1, 40, 40)
    erased = random_erase(images, probability=1.0, area=(0.1, 0.2), aspect=(0.5, 2.0), generator=seeded(5)) == 0
    shares = erased.flatten(1).double().mean(1)
    heights, widths = erased.any(3).sum(2).double(), erased.any(2).sum(2).double()
    assert 0.09 < float(shares.min()) < 0.12
    assert 0.18 < float(shares.max()) < 0.22
    assert torch.equal(heights * widths, erased.flatten(1).sum(1, keepdim=True).double())
    assert 0.45 < float((heights / widths).min()) < 0.6
    assert 1.7 < float((heights / widths).max()) < 2.2


def test_noise_has_the_size_asked_for() -> None:
    noise = add_noise(torch.zeros(100, 1, 20, 20), std=0.25, generator=seeded(6))
    assert abs(float(noise.std()) - 0.25) < 0.01
    assert abs(float(noise.mean())) < 0.01
    images = images_of(2, 3)
    assert torch.equal(add_noise(images, std=0.0), images)


NEUTRAL: dict[str, Callable[[Tensor], Tensor]] = {
    "affine": lambda x: random_affine(x, generator=seeded(0)),
    "flip": lambda x: random_flip(x, probability=0.0, generator=seeded(0)),
    "erase": lambda x: random_erase(x, probability=0.0, generator=seeded(0)),
}
ACTIVE: dict[str, Callable[[Tensor, torch.Generator | None], Tensor]] = {
    "affine": lambda x, g: random_affine(x, degrees=9, max_shift=2, scale=(0.9, 1.1), shear=5, generator=g),
    "flip": lambda x, g: random_flip(x, generator=g),
    "erase": lambda x, g: random_erase(x, generator=g),
    "noise": lambda x, g: add_noise(x, std=0.1, generator=g),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_zero_strength_changes_nothing(name: str) -> None:
    images = images_of(7, 2, 6, 6)
    torch.testing.assert_close(NEUTRAL[name](images), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("name", ACTIVE)
def test_equal_generators_give_equal_images_and_nothing_else_is_touched(name: str, device: torch.device) -> None:
    images = images_of(9, 2, 6, 6, dtype=torch.float32).to(device)
    kept, state = images.clone(), torch.get_rng_state()
    here = ACTIVE[name](images, seeded(3))
    assert here.device.type == device.type
    assert here.shape == images.shape
    assert here.dtype == images.dtype
    torch.testing.assert_close(here.cpu(), ACTIVE[name](images.cpu(), seeded(3)), rtol=0, atol=1e-5)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ACTIVE)
def test_the_layer_augments_in_training_and_returns_the_images_themselves_in_evaluation(name: str) -> None:
    images = images_of(9, 2, 6, 6)
    layer = Augment(ACTIVE[name], generator=seeded(3))
    assert torch.equal(layer(images), ACTIVE[name](images, seeded(3)))
    assert not torch.equal(layer(images), layer(images))
    with evaluation_mode(layer):
        assert layer(images) is images
    assert not list(layer.state_dict())


@pytest.mark.parametrize("name", ACTIVE)
def test_a_sweep_gives_every_copy_draws_of_its_own(name: str) -> None:
    def step(parameter: Tensor, gradient: Tensor, *, lr: float | Tensor) -> Tensor:
        return parameter - lr * gradient

    def make(generator: torch.Generator) -> nn.Module:
        return nn.Sequential(Augment(ACTIVE[name]), mlp((64, 1), generator=seeded(1)))

    data = digits().train[0][:16], torch.zeros(16, 1)
    losses = sweep(
        make, step, lambda z, y: z.mean(), data,
        settings=[{"lr": 0.0}], seeds=seeds("test augmentation", 10), total_steps=2, batch_size=16,
    ).losses  # fmt: skip
    assert len(losses.unique()) == 20


def test_bad_arguments_are_refused_by_name() -> None:
    images = images_of(3, 1, 4, 4)
    angles, shifts, scales, shears = identity(3)
    calls: list[Callable[[Any], Tensor]] = [
        random_affine,
        random_flip,
        random_erase,
        lambda x: warp(x, affine_matrices(*identity(3))),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\), got shape \(3, 4\)"):
            call(torch.ones(3, 4))
        with pytest.raises(TypeError, match=r"images must be floating point, got torch\.uint8"):
            call(torch.ones(3, 1, 4, 4, dtype=torch.uint8))
        with pytest.raises(TypeError, match="images must be Tensor, got list"):
            call([1])
    for name in ("degrees", "max_shift", "shear"):
        for value in (-1.0, math.nan):
            with pytest.raises(ValueError, match=f"{name} must be >= 0, got"):
                random_affine(images, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shear must be < 90, got 90\.0"):
        random_affine(images, shear=90.0)
    with pytest.raises(ValueError, match=r"scale must be > 0, got 0\.0"):
        random_affine(images, scale=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"scale must be \(smallest, largest\), got \(2\.0, 1\.0\)"):
        random_affine(images, scale=(2.0, 1.0))
    with pytest.raises(ValueError, match=r"max_shift must be whole with whole_pixels, got 1\.5"):
        random_affine(images, max_shift=1.5, whole_pixels=True)
    with pytest.raises(ValueError, match="mode must be one of 'bilinear', 'nearest', got 'cubic'"):
        warp(images, affine_matrices(*identity(3)), mode="cubic")
    with pytest.raises(ValueError, match=r"matrices must be \(3, 2, 3\), got \(2, 2, 3\)"):
        warp(images, affine_matrices(*identity(2)))
    with pytest.raises(ValueError, match=r"shifts must be \(3, 2\), got \(3,\)"):
        affine_matrices(angles, shifts[:, 0], scales, shears)
    with pytest.raises(ValueError, match=r"scales must be > 0, got 0\.0"):
        affine_matrices(angles, shifts, 0 * scales, shears)
    with pytest.raises(ValueError, match=r"shears must be in \(-90, 90\), got 90\.0 in size"):
        affine_matrices(angles, shifts, scales, shears - 90)
    with pytest.raises(ValueError, match="angles must be finite, got 3 of 3"):
        affine_matrices(angles + math.nan, shifts, scales, shears)
    with pytest.raises(TypeError, match="scales must be Tensor, got float"):
        affine_matrices(angles, shifts, 1.0, shears)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"mask must be bool, got torch\.float64"):
        flip(images, angles)
    with pytest.raises(ValueError, match=r"mask must be \(3,\), got \(2,\)"):
        flip(images, torch.tensor([True, False]))
    with pytest.raises(TypeError, match=r"boxes must be int64, got torch\.float64"):
        erase(images, torch.zeros(3, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"boxes must be \(3, 4\), got \(3, 3\)"):
        erase(images, torch.zeros(3, 3, dtype=torch.int64))
    chances: list[Callable[[float], Tensor]] = [
        lambda p: random_flip(images, probability=p),
        lambda p: random_erase(images, probability=p),
    ]
    for chance in chances:
        for value in (-0.1, 1.1, math.nan):
            with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got"):
                chance(value)
    with pytest.raises(ValueError, match=r"area must be in \[0, 1\], got 1\.5"):
        random_erase(images, area=(0.1, 1.5))
    with pytest.raises(ValueError, match=r"aspect must be > 0, got 0\.0"):
        random_erase(images, aspect=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"area must be \(smallest, largest\), got \(0\.3, 0\.2\)"):
        random_erase(images, area=(0.3, 0.2))
    with pytest.raises(ValueError, match=r"std must be >= 0, got -1\.0"):
        add_noise(images, std=-1.0)
    with pytest.raises(TypeError, match=r"images must be floating point, got torch\.int64"):
        add_noise(torch.ones(3, dtype=torch.int64), std=1.0)
    with pytest.raises(TypeError, match="augmentation must be callable, got int"):
        Augment(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="generator must be Generator or NoneType, got int"):
        Augment(ACTIVE["flip"], generator=0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="generator must be Generator or NoneType, got int"):
        random_flip(images, generator=0)  # type: ignore[arg-type]
