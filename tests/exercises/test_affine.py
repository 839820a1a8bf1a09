"""The checker accepts tests that hold and names the wrong quantizer that a weaker test lets through."""

import pytest
import torch

from nnopt import exercises
from nnopt.exercises import Quantizer


def check(quantizer: Quantizer, parts: frozenset[str]) -> None:
    values = torch.linspace(-0.6, 1, 321, dtype=torch.float64)
    for num_bits in (2, 3, 8):
        restored = quantizer(values, num_bits)
        if "bound" in parts:
            assert (restored - values).abs().max() <= 0.8 / (2**num_bits - 1) + 1e-9
        if "levels" in parts:
            assert len(restored.unique()) <= 2**num_bits
        if "zero" in parts:
            assert quantizer(torch.tensor([-0.6, 0.0, 1.0]), num_bits)[1] == 0
    if "constant" in parts:
        assert quantizer(torch.full((3,), 0.5), 4).isfinite().all()


ALL = frozenset({"bound", "levels", "zero", "constant"})


def test_a_complete_test_is_accepted() -> None:
    verdict = exercises.check_quantizer_test(lambda quantizer: check(quantizer, ALL))
    assert verdict
    assert "refuses all 7 wrong ones" in verdict.sentence


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("bound", "cuts the fraction off"),
        ("levels", "uses more levels"),
        ("zero", "moves zero"),
        ("constant", "divides by zero"),
    ],
)
def test_a_test_without_one_part_lets_a_wrong_quantizer_through(missing: str, named: str) -> None:
    verdict = exercises.check_quantizer_test(lambda quantizer: check(quantizer, ALL - {missing}))
    assert not verdict
    assert named in verdict.sentence


def test_a_test_of_quality_alone_finds_little() -> None:
    values = torch.linspace(-0.6, 1, 321, dtype=torch.float64)
    verdict = exercises.check_quantizer_test(lambda quantizer: (quantizer(values, 8) - values).abs().max() < 0.01)
    assert not verdict


def test_a_test_that_refuses_everything_is_told_so() -> None:
    verdict = exercises.check_quantizer_test(lambda quantizer: False)
    assert "refuses a correct implementation" in verdict.sentence
