"""Every refusal names what was refused, what was wanted and what came; NaN never passes."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnopt import checks


@pytest.mark.parametrize("check", [checks.require_positive, checks.require_non_negative, checks.require_fraction])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.5])
def test_numbers_out_of_range_are_refused(check: Callable[[str, object], None], bad: float) -> None:
    with pytest.raises(ValueError, match=f"rate must be .*, got {bad}"):
        check("rate", bad)


@pytest.mark.parametrize("check", [checks.require_positive, checks.require_non_negative, checks.require_fraction])
@pytest.mark.parametrize("bad", ["1", None, True, [1.0]])
def test_what_is_no_number_is_a_type_error(check: Callable[[str, object], None], bad: object) -> None:
    with pytest.raises(TypeError, match=f"rate must be a number, got {type(bad).__name__}"):
        check("rate", bad)


def test_the_limits_themselves() -> None:
    checks.require_non_negative("x", 0)
    checks.require_fraction("x", 1)
    checks.require_positive("x", torch.tensor(0.1))
    with pytest.raises(ValueError, match=r"x must be > 0, got 0\.0"):
        checks.require_positive("x", 0.0)
    with pytest.raises(ValueError, match=r"x must be in \[0, 1\), got 1.0"):
        checks.require_fraction("x", 1.0, open_end=True)
    with pytest.raises(ValueError, match=r"x must be in \[0, 1\], got 1.001"):
        checks.require_fraction("x", 1.001)
    with pytest.raises(ValueError, match="x must be a single number"):
        checks.require_positive("x", torch.ones(2))
    for wrong in (torch.tensor(True), torch.tensor(1 + 0j)):
        with pytest.raises(TypeError, match=f"x must be a number, got a tensor of {wrong.dtype}"):
            checks.require_positive("x", wrong)


def test_integers() -> None:
    checks.require_integer("n", 3, minimum=3)
    with pytest.raises(ValueError, match="n must be >= 3, got 2"):
        checks.require_integer("n", 2, minimum=3)
    for bad in (1.0, True, "1"):
        with pytest.raises(TypeError, match="n must be an integer"):
            checks.require_integer("n", bad)


def test_choices_types_emptiness_shapes_and_finiteness() -> None:
    checks.require_one_of("s", "a", ("a", "b"))
    with pytest.raises(ValueError, match="s must be one of 'a', 'b', got 'c'"):
        checks.require_one_of("s", "c", ("a", "b"))
    checks.require_type("t", 1, (int, str))
    with pytest.raises(TypeError, match="t must be int or str, got float"):
        checks.require_type("t", 1.0, (int, str))
    with pytest.raises(ValueError, match="e must not be empty"):
        checks.require_non_empty("e", [])
    with pytest.raises(ValueError, match="e must not be empty"):
        checks.require_non_empty("e", torch.zeros(0, 3))
    checks.require_non_empty("e", torch.zeros(1))
    with pytest.raises(ValueError, match=r"a and b must have the same shape, got \(2, 1\) and \(2,\)"):
        checks.require_same_shape("a", torch.zeros(2, 1), "b", torch.zeros(2))
    checks.require_shape("s", torch.zeros(2, 1), (2, 1))
    with pytest.raises(ValueError, match=r"s must be \(2,\), got \(2, 1\)"):
        checks.require_shape("s", torch.zeros(2, 1), (2,))
    for value, dtype in ((torch.zeros(1), torch.float32), (torch.zeros(1).half(), None)):
        checks.require_dtype("d", value, dtype)
    with pytest.raises(TypeError, match=r"d must be bool, got torch\.int64"):
        checks.require_dtype("d", torch.tensor(1), torch.bool)
    with pytest.raises(TypeError, match=r"d must be floating point, got torch\.int64"):
        checks.require_dtype("d", torch.tensor(1), None)
    with pytest.raises(TypeError, match="d must be Tensor, got list"):
        checks.require_dtype("d", [1.0], None)
    values: Tensor = torch.tensor([1.0, math.nan, math.inf])
    checks.require_finite("v", values[:1])
    with pytest.raises(ValueError, match="v must be finite, got 2 of 3 values NaN or infinite"):
        checks.require_finite("v", values)
