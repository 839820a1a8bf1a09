"""One contract for every pure step of the room: what it returns, and what it refuses."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import nnopt.optimizers as room

Rule = Callable[..., Tensor | tuple[Tensor, ...]]

# the settings that a step cannot do without; a new pure step of the room needs a line here
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient_step": {},
    "momentum_step": {"momentum": 0.8},
    "adagrad_step": {"weight_decay": 0.1},
    "rmsprop_step": {"weight_decay": 0.1},
    "adam_step": {"weight_decay": 0.1},
    "nadam_step": {"weight_decay": 0.1},
    "radam_step": {"betas": (0.8, 0.9)},  # with a short memory the second moment counts within ten steps
    "lion_step": {"weight_decay": 0.1},
    "ademamix_step": {"weight_decay": 0.1},
    "prodigy_step": {"initial": 1e-2},
    "adafactor_step": {},
    "muon_step": {"dtype": None},
    "schedule_free_step": {"weight_decay": 0.1},
    "schedule_free_adamw_step": {"weight_decay": 0.1},
    "shampoo_step": {"precondition_every": 2},
    "soap_step": {"precondition_every": 2},
}
# of a layer, of a loss or of residuals: they take no gradient of any shape
OF_ANOTHER_KIND = {"gauss_newton_step", "kronecker_step", "newton_cg_step", "newton_step"}
SHAPES = [(), (0,), (4,), (3, 2), (0, 2)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
every = pytest.mark.parametrize("name", SETTINGS)


def rule_of(name: str) -> tuple[Rule, int]:
    """Return a step with its settings, and how many states it has."""
    rule = getattr(room, name)
    kinds = inspect.signature(rule).parameters.values()
    num_states = sum(kind.kind is kind.POSITIONAL_OR_KEYWORD for kind in kinds) - 2
    takes_step = any(kind.name == "step" and kind.default is kind.empty for kind in kinds)
    return partial(rule, **{"lr": 0.1, **({"step": 1} if takes_step else {}), **SETTINGS[name]}), num_states


def moved(rule: Rule, *tensors: Tensor, **settings: Any) -> tuple[Tensor, ...]:
    answer = rule(*tensors, **settings)
    return answer if isinstance(answer, tuple) else (answer,)


def shape_for(name: str) -> tuple[int, ...]:
    return (3, 2) if name == "muon_step" else (2,)


def test_every_step_of_the_room_is_under_contract() -> None:
    assert {name for name in room.__all__ if name.endswith("_step")} == set(SETTINGS) | OF_ANOTHER_KIND


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, shape) for name in SETTINGS for shape in SHAPES if name != "muon_step" or len(shape) == 2],
    ids=str,
)
def test_shape_and_dtype_of_parameter_and_states_are_kept(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    rule, num_states = rule_of(name)
    generator = torch.Generator().manual_seed(0)
    parameter = torch.randn(shape, generator=generator).to(dtype)
    states = tuple(torch.zeros_like(parameter) for _ in range(num_states))
    if dtype == torch.float16 and name in ("shampoo_step", "soap_step"):
        with pytest.raises(TypeError, match=r"parameter must be float32, float64 or bfloat16, got torch\.float16"):
            rule(parameter, parameter, *states)
        return
    shapes: list[torch.Size] = []
    takes_step = isinstance(rule, partial) and "step" in rule.keywords
    for step in range(1, 9):
        gradient = torch.randn(shape, generator=generator).to(dtype)
        parameter, *rest = moved(rule, parameter, gradient, *states, **({"step": step} if takes_step else {}))
        states = tuple(rest)
        assert parameter.shape == shape
        assert {tensor.dtype for tensor in (parameter, *states)} == {dtype}
        if dtype != torch.float16:  # whose range ends where many a square begins
            assert all(tensor.isfinite().all() for tensor in (parameter, *states))
        assert [state.shape for state in states] == (shapes if step > 1 else [state.shape for state in states])
        shapes = [state.shape for state in states]


@every
def test_what_is_not_real_is_refused(name: str) -> None:
    rule, num_states = rule_of(name)
    shape = shape_for(name)
    for dtype in (torch.complex64, torch.int64, torch.bool):
        wrong = torch.ones(shape, dtype=dtype)
        with pytest.raises(TypeError, match=rf"parameter must be floating point, got {dtype}"):
            rule(wrong, wrong, *[torch.zeros_like(wrong)] * num_states)
    for dtype in (torch.complex64, torch.int64, torch.float64):
        with pytest.raises(TypeError, match=rf"gradient must have the parameter's dtype torch.float32, got {dtype}"):
            rule(torch.ones(shape), torch.ones(shape, dtype=dtype), *[torch.zeros(shape)] * num_states)


@every
@pytest.mark.parametrize(
    ("lr", "error", "message"),
    [
        ("0.1", TypeError, "lr must be a number, got str"),
        (None, TypeError, "lr must be a number, got NoneType"),
        (True, TypeError, "lr must be a number, got bool"),
        (-0.1, ValueError, "lr must be >= 0, got -0.1"),
        (math.nan, ValueError, "lr must be >= 0, got nan"),
        (math.inf, ValueError, "lr must be >= 0, got inf"),
        (torch.tensor([0.1, math.nan]), ValueError, "lr must be >= 0, got tensor"),
        (torch.tensor([0.1, math.inf]), ValueError, "lr must be >= 0, got tensor"),
        (torch.tensor([0.1, -0.1]), ValueError, "lr must be >= 0, got tensor"),
        (torch.ones(2, dtype=torch.float64), TypeError, "lr must be numbers of dtype torch.float32, got torch.float64"),
        (
            torch.ones((), dtype=torch.complex64),
            TypeError,
            "lr must be numbers of dtype torch.float32, got torch.complex",
        ),
        (torch.tensor(True), TypeError, "lr must be numbers of dtype torch.float32, got torch.bool"),
        (torch.ones(2, 1, 1), ValueError, r"lr must broadcast to shape \((3, )?2,?\), got \(2, 1, 1\)"),
        (torch.ones(5), ValueError, r"lr must broadcast to shape \((3, )?2,?\), got \(5,\)"),
    ],
)
def test_learning_rates_that_are_none_are_refused(name: str, lr: Any, error: type[Exception], message: str) -> None:
    rule, num_states = rule_of(name)
    tensors = [torch.ones(shape_for(name))] * (2 + num_states)
    with pytest.raises(error, match=message):
        rule(*tensors, lr=lr)


@every
def test_one_rate_for_each_copy_broadcasts(name: str) -> None:
    rule, num_states = rule_of(name)
    keywords: dict[str, Any] = {"copies": True} if "copies" in inspect.signature(getattr(room, name)).parameters else {}
    parameter = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    if name == "soap_step":  # its first step moves nothing
        _, *states = moved(rule, parameter, parameter, *[torch.zeros_like(parameter)] * num_states, **keywords)
        keywords["step"] = 2
    else:
        states = [torch.zeros_like(parameter)] * num_states
    both = moved(rule, parameter, parameter, *states, lr=torch.tensor([0.1, 0.3]).view(2, 1, 1), **keywords)[0]
    for copy, lr in enumerate((0.1, 0.3)):
        alone = moved(rule, parameter, parameter, *states, lr=lr, **keywords)[0]
        torch.testing.assert_close(both[copy], alone[copy])
    assert not torch.allclose(both[0] - parameter[0], (both[1] - parameter[1]) * 0.9)


def test_the_contract_sees_planted_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    def widening(parameter: Tensor, gradient: Tensor, *, lr: float) -> Tensor:
        return parameter - torch.tensor(lr, dtype=torch.float64) * gradient

    monkeypatch.setattr(room, "gradient_step", widening)
    test_shape_and_dtype_of_parameter_and_states_are_kept("gradient_step", (4,), torch.float32)
    with pytest.raises(AssertionError):  # a factor in float64 is only seen where nothing has a dimension
        test_shape_and_dtype_of_parameter_and_states_are_kept("gradient_step", (), torch.float32)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_what_is_not_real_is_refused("gradient_step")
