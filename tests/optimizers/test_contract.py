"""One contract for every optimizer class of the room: what a user of ``torch.optim`` may take for granted."""

import copy
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nnopt.optimizers
from nnopt.devices import available_devices
from nnopt.models import mlp, transformer

Make = Callable[..., torch.optim.Optimizer]

# Muon for matrices and AdamW for the rest, with one learning rate for both
WHOLE_MODEL: dict[str, Any] = {"fallback": "others", "adjust_lr": "match_rms_adamw"}
# how each class is made, with settings away from their defaults; a new class of the room needs a line here
MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Lion": lambda params, **options: nnopt.optimizers.Lion(
        params, **{"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, **options}
    ),
    "ScheduleFreeAdamW": lambda params, **options: nnopt.optimizers.ScheduleFreeAdamW(
        params, **{"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1, **options}
    ),
    # in the parameters' own dtype: bfloat16 rounds a batch of products otherwise than one
    "Muon": lambda params, **options: nnopt.optimizers.Muon(
        params,
        **{"lr": 0.01, "momentum": 0.8, "weight_decay": 0.1, "dtype": None, **WHOLE_MODEL, **options},
    ),
    "SOAP": lambda params, **options: nnopt.optimizers.SOAP(
        params, **{"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "precondition_every": 3, **options}
    ),
    "Shampoo": lambda params, **options: nnopt.optimizers.Shampoo(
        params, **{"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1, "precondition_every": 3, **options}
    ),
}
# settings that must be refused, beside NaN and negative learning rates and decays
OUT_OF_RANGE: dict[str, list[dict[str, Any]]] = {
    "Lion": [
        {"betas": (torch.full((2,), 0.9), 0.9)},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"betas": (math.nan, 0.9)},
        {"betas": (0.9,)},
    ],
    "ScheduleFreeAdamW": [
        {"betas": (0.9, 1.0)},
        {"betas": (1.0, 0.9)},
        {"betas": (math.nan, 0.9)},
        {"betas": 0.9},
        {"eps": -1e-8},
        {"eps": math.nan},
    ],
    "Muon": [
        {"momentum": 1.0},
        {"momentum": math.nan},
        {"num_steps": 0},
        {"coefficients": (1.5, -0.5)},
        {"coefficients": (1.5, math.nan, 0.0)},
        {"adjust_lr": "rms"},
        {"fallback": "adam"},
        {"betas": (0.9, 1.0)},
        {"eps": -1.0},
    ],
    "SOAP": [{"betas": (0.9, 1.0)}, {"memory": 1.0}, {"eps": math.nan}, {"precondition_every": 0}],
    "Shampoo": [{"eps": -1e-6}, {"eps": math.inf}, {"precondition_every": 0}],
}
# makers of an optimizer of torch that we change: torch reads its settings, groups and missing gradients
CHANGED: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "flat": lambda params, **options: nnopt.optimizers.flat(
        torch.optim.AdamW(params, **{"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, **options})
    ),
    "flat Lion": lambda params, **options: nnopt.optimizers.flat(MAKERS["Lion"](params, **options)),
}
# a step of theirs needs two gradients, and so a closure: tests/optimizers/test_sharpness.py
WITH_CLOSURE = {"SharpnessAware"}
CLASSES = {
    name: value
    for name, value in vars(nnopt.optimizers).items()
    if name in nnopt.optimizers.__all__ and isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
}
every = pytest.mark.parametrize("make", (MAKERS | CHANGED).values(), ids=MAKERS | CHANGED)
own = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
paths = pytest.mark.parametrize("foreach", [None, False, True])


def test_every_class_is_under_contract() -> None:
    assert set(CLASSES) - WITH_CLOSURE == set(MAKERS) == set(OUT_OF_RANGE)
    assert set(CLASSES) >= WITH_CLOSURE
    assert CLASSES


def parameters(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> list[Tensor]:
    """Shapes that break optimizers: a matrix, a kernel, a vector, one number, none, and one that is frozen."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (2, 3, 3, 3), (7,), (), (0, 4), (4,)]
    found = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    found[-1].requires_grad_(False)
    return found


def set_gradients(of: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in of:
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)


def run(optimizer: torch.optim.Optimizer, of: list[Tensor], steps: range) -> None:
    for step in steps:
        set_gradients(of, step)
        optimizer.step()


def values(of: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in of]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


@every
@paths
@pytest.mark.parametrize("maximize", [False, True])
def test_gradients_stay_as_they_are_bit_for_bit(make: Make, foreach: bool | None, maximize: bool) -> None:
    of = parameters()
    optimizer = make(of, foreach=foreach, maximize=maximize)
    for step in range(3):
        set_gradients(of, step)
        gradients = [parameter.grad for parameter in of if parameter.grad is not None]
        kept = values(gradients)
        optimizer.step()
        assert_same(gradients, kept)
        assert all(parameter.grad is gradient for parameter, gradient in zip(of, gradients))


@every
@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_device_and_shape_are_kept_and_only_live_parameters_move(
    make: Make, device: torch.device, dtype: torch.dtype
) -> None:
    of = parameters(dtype, device)
    before = values(of)
    optimizer = make(of)
    run(optimizer, of, range(3))
    for old, new in zip(before, of, strict=True):
        assert (new.dtype, new.device, new.shape) == (old.dtype, old.device, old.shape)
        assert new.isfinite().all()
        assert torch.equal(old, new.detach()) == (not new.requires_grad or new.numel() == 0)
    assert of[-1] not in optimizer.state
    assert {tensor.device.type for tensor in state_tensors(optimizer)} <= {device.type, "cpu"}


@every
def test_every_path_takes_the_same_steps(make: Make) -> None:
    ends = []
    for foreach in (None, True, False):
        of = parameters(torch.float64)
        run(make(of, foreach=foreach), of, range(10))
        ends.append(values(of))
    for end in ends[1:]:
        for one, other in zip(ends[0], end, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@every
@paths
def test_gradients_and_parameters_laid_out_otherwise_take_the_same_steps(make: Make, foreach: bool | None) -> None:
    plain, other = parameters(torch.float64)[:2], parameters(torch.float64)[:2]
    other[0].data = other[0].data.t().contiguous().t()
    other[1].data = other[1].data.to(memory_format=torch.channels_last)
    one, two = make(plain, foreach=foreach), make(other, foreach=foreach)
    for step in range(3):
        set_gradients(plain, step)
        for parameter, source in zip(other, plain, strict=True):
            assert source.grad is not None
            parameter.grad = source.grad.clone()
            if step == 1:  # and now the gradient alone
                parameter.grad = source.grad.transpose(0, -1).contiguous().transpose(0, -1)
        if step == 2:
            plain[0].grad = None if plain[0].grad is None else plain[0].grad.t().contiguous().t()
        one.step()
        two.step()
    for a, b in zip(plain, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@every
def test_two_runs_are_equal_bit_for_bit(make: Make) -> None:
    one, other = parameters(), parameters()
    run(make(one), one, range(5))
    run(make(other), other, range(5))
    assert_same(values(one), values(other))


@every
def test_a_checkpoint_read_without_pickle_continues_bit_for_bit(make: Make) -> None:
    one = parameters()
    optimizer = make(one)
    run(optimizer, one, range(4))
    file = io.BytesIO()
    torch.save({"parameters": values(one), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = [value.requires_grad_(old.requires_grad) for value, old in zip(saved["parameters"], one, strict=True)]
    resumed = make(other, lr=0.5, weight_decay=0.0)
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.param_groups[0]["lr"] == 0.01
    run(optimizer, one, range(4, 9))
    run(resumed, other, range(4, 9))
    assert_same(values(one), values(other))


@own
def test_a_checkpoint_of_another_kind_is_refused_and_changes_nothing(make: Make) -> None:
    of = parameters()
    optimizer = make(of)
    run(optimizer, of, range(2))
    states, lr = values(state_tensors(optimizer)), optimizer.param_groups[0]["lr"]
    other = parameters()
    foreign = torch.optim.SGD(other, lr=0.3, momentum=0.9)
    run(foreign, other, range(2))
    with pytest.raises(ValueError, match="checkpoint must have the setting"):
        optimizer.load_state_dict(foreign.state_dict())
    damaged = copy.deepcopy(optimizer.state_dict())
    damaged["param_groups"][0]["lr"] = math.nan
    with pytest.raises(ValueError, match="lr must be >= 0, got nan"):
        optimizer.load_state_dict(damaged)
    assert_same(state_tensors(optimizer), states)
    assert optimizer.param_groups[0]["lr"] == lr


def trained(make: Make, width: int = 5) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a network with one hidden layer and an optimizer that has moved it."""
    model = mlp((4, width, 2), generator=torch.Generator().manual_seed(0))
    optimizer = make(model.parameters())
    run(optimizer, list(model.parameters()), range(3))
    return model, optimizer


def assert_same_checkpoint(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["param_groups"] == other["param_groups"]
    torch.testing.assert_close(one["state"], other["state"], rtol=0, atol=0)


FOREIGN: dict[str, Make] = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1, fused=True),
    "SGD": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "RAdam": lambda params: torch.optim.RAdam(params, lr=0.01),
}


@pytest.mark.parametrize("source", [*FOREIGN, *MAKERS])
@pytest.mark.parametrize("target", [*MAKERS, "flat Lion"])
def test_what_another_rule_or_another_shape_has_left_is_refused_and_changes_nothing(source: str, target: str) -> None:
    is_same = target.endswith(source)  # Lion's checkpoints are those of flat Lion: but not of another width
    left = trained((FOREIGN | MAKERS)[source], width=3 if is_same else 5)[1].state_dict()
    model, optimizer = trained((MAKERS | CHANGED)[target])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="must"):
        optimizer.load_state_dict(left)
    assert_same_checkpoint(optimizer.state_dict(), before)
    run(optimizer, list(model.parameters()), range(3, 6))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("old", "new"), [((5, 4), (1, 4)), ((1, 4), (5, 4)), ((4, 5), (400, 50)), ((400, 50), (50,))])
@own
def test_a_state_of_another_shape_is_refused_at_once(make: Make, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    one, other = (torch.ones(shape, requires_grad=True) for shape in (old, new))
    trained_before, optimizer = make([one]), make([other])
    run(trained_before, [one], range(2))
    with pytest.raises(ValueError, match=r"must be \(|state of a parameter must be"):
        optimizer.load_state_dict(trained_before.state_dict())
    assert not state_tensors(optimizer)


@own
def test_a_damaged_state_is_named(make: Make) -> None:
    optimizer = trained(make)[1]
    good = copy.deepcopy(optimizer.state_dict())
    for name in good["state"][0]:
        for wrong in ("text", -1, math.nan, torch.ones(2, 7)):
            damaged = copy.deepcopy(good)
            damaged["state"][0][name] = wrong
            with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
                optimizer.load_state_dict(damaged)
        damaged = copy.deepcopy(good)
        damaged["state"][0]["more"] = damaged["state"][0].pop(name)
        with pytest.raises(ValueError, match=rf"state of a parameter must be .*{name}.*, got .*more"):
            optimizer.load_state_dict(damaged)
    assert_same_checkpoint(optimizer.state_dict(), good)


@pytest.mark.parametrize("name", ["Lion", "ScheduleFreeAdamW", "Muon"])
@pytest.mark.parametrize("change", [(9, 3), (2, 3), torch.float64, torch.float16])
def test_fused_kernels_do_not_walk_over_states_that_no_longer_fit(name: str, change: Any) -> None:
    """They look at no shape: beyond a state they would write into memory of others."""
    weight = torch.ones(5, 3, requires_grad=True)
    bias = torch.ones(3, requires_grad=True)
    optimizer = MAKERS[name]([weight, bias], **({"fallback": "all"} if name == "Muon" else {}))
    run(optimizer, [weight, bias], range(2))
    weight.grad = None
    weight.data = torch.ones(change) if isinstance(change, tuple) else weight.data.to(change)
    if isinstance(change, torch.dtype):
        bias.grad = None
        bias.data = bias.data.to(change)
    before = values([weight, bias])
    with pytest.raises(
        ValueError, match=r"gradient and states must be like their parameter, .*, got \(torch.float32, "
    ):
        run(optimizer, [weight, bias], range(2, 3))
    assert_same(values([weight, bias]), before)


@pytest.mark.parametrize("make", [*MAKERS.values(), CHANGED["flat Lion"]], ids=[*MAKERS, "flat Lion"])
@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf, "0.1", True, torch.tensor(math.nan)])
def test_a_learning_rate_that_became_none_is_refused_before_anything_moves(make: Make, lr: Any) -> None:
    of = parameters()[:3]
    optimizer = make([{"params": of[:1]}, {"params": of[1:]}])
    run(optimizer, of, range(1))
    before = values([*of, *state_tensors(optimizer)])
    optimizer.param_groups[1]["lr"] = lr
    with pytest.raises((TypeError, ValueError), match="lr must be"):
        run(optimizer, of, range(1, 2))
    assert_same(values([*of, *state_tensors(optimizer)]), before)


@every
@paths
def test_autograd_sees_that_weights_have_changed(make: Make, foreach: bool | None) -> None:
    weight = torch.ones(3, 3, requires_grad=True)
    optimizer = make([weight], foreach=foreach)
    loss = weight.square().prod()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every
def test_a_deep_copy_of_model_and_optimizer_walks_alike_and_apart(make: Make) -> None:
    model = mlp((4, 5, 2), generator=torch.Generator().manual_seed(0))
    optimizer = make(model.parameters(), lr=torch.tensor(0.01))
    run(optimizer, list(model.parameters()), range(2))
    twin, other = copy.deepcopy((model, optimizer))
    mine = {id(t) for t in [*model.parameters(), *state_tensors(optimizer), optimizer.param_groups[0]["lr"]]}
    theirs = {id(t) for t in [*twin.parameters(), *state_tensors(other), other.param_groups[0]["lr"]]}
    assert not mine & theirs
    before = values(list(model.parameters()))
    run(other, list(twin.parameters()), range(2, 5))
    assert_same(values(list(model.parameters())), before)
    run(optimizer, list(model.parameters()), range(2, 5))
    assert_same(values(list(model.parameters())), values(list(twin.parameters())))


@every
@paths
def test_maximizing_is_minimizing_the_negative(make: Make, foreach: bool | None) -> None:
    up, down = parameters(), parameters()
    climbing, descending = make(up, maximize=True, foreach=foreach), make(down, foreach=foreach)
    for step in range(4):
        set_gradients(up, step)
        set_gradients(down, step)
        for parameter in down:
            if parameter.grad is not None:
                parameter.grad = -parameter.grad
        climbing.step()
        descending.step()
    assert_same(values(up), values(down))


@own
@paths
def test_a_learning_rate_in_a_tensor_is_copied_and_walks_like_the_number(make: Make, foreach: bool | None) -> None:
    lr = torch.tensor(0.01, dtype=torch.float64)
    one, other, plain = parameters(), parameters(), parameters()
    first, second = make(one, lr=lr, foreach=foreach), make(other, lr=lr, foreach=foreach)
    number = make(plain, lr=0.01, foreach=foreach)
    for optimizer, of in ((first, one), (second, other), (number, plain)):
        run(optimizer, of, range(3))
    assert_same(values(one), values(plain))
    schedule = torch.optim.lr_scheduler.LambdaLR(first, lambda step: 0.5**step)
    run(first, one, range(3, 4))
    schedule.step()
    assert float(first.param_groups[0]["lr"]) == pytest.approx(0.005)
    assert float(second.param_groups[0]["lr"]) == float(lr) == 0.01
    groups = make([{"params": [one[0]]}, {"params": [one[1]]}], lr=lr).param_groups
    assert groups[0]["lr"] is not groups[1]["lr"]


@every
def test_a_learning_rate_of_zero_moves_nothing(make: Make) -> None:
    of = parameters()
    before = values(of)
    run(make(of, lr=0.0), of, range(3))
    assert_same(values(of), before)


@own
def test_groups_have_settings_of_their_own_and_can_be_added(make: Make) -> None:
    of = parameters(torch.float64)
    given = {"params": iter([of[0]]), "lr": 0.5}
    optimizer = make([given, {"params": of[1]}])
    assert set(given) == {"params", "lr"}
    optimizer.add_param_group({"params": of[2], "lr": 0.0})
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.01, 0.0]
    alone = parameters(torch.float64)
    single = make([alone[0]], lr=0.5)
    before = values(of)
    for step in range(3):
        set_gradients(of, step)
        alone[0].grad = None if of[0].grad is None else of[0].grad.clone()
        optimizer.step()
        single.step()
    assert torch.equal(alone[0].detach(), of[0].detach())
    assert torch.equal(before[2], of[2].detach())
    assert not torch.equal(before[1], of[1].detach())


@every
def test_named_parameters_are_taken_and_remembered(make: Make) -> None:
    model = mlp((3, 2), generator=torch.Generator().manual_seed(0))
    optimizer = make(model.named_parameters())
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.param_groups[0]["param_names"] == names
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names


@pytest.mark.parametrize("name", MAKERS)
def test_settings_out_of_range_are_refused_before_anything_changes(name: str) -> None:
    bad: list[dict[str, Any]] = [{"lr": -0.1}, {"lr": math.nan}, {"lr": math.inf}, {"lr": torch.tensor(math.nan)}]
    bad += [{"lr": torch.ones(2)}, {"weight_decay": -0.1}, {"weight_decay": math.nan}, *OUT_OF_RANGE[name]]
    of = parameters()
    for wrong in bad:
        with pytest.raises(ValueError, match="must be"):
            MAKERS[name](of, **wrong)
        optimizer = MAKERS[name]([of[0]])
        group: dict[str, Any] = {"params": [of[1]], **wrong}
        with pytest.raises(ValueError, match="must be"):
            optimizer.add_param_group(group)
        assert len(optimizer.param_groups) == 1
        assert set(group) == {"params", *wrong}
    wrongs: list[dict[str, Any]] = [{"maximize": "no"}, {"foreach": 1}, {"lr": "0.1"}, {"lr": torch.tensor(True)}]
    for wrong in [*wrongs, {"lr": torch.tensor(1 + 0j)}]:
        with pytest.raises(TypeError, match="must be"):
            MAKERS[name](of, **wrong)


@own
def test_typing_errors_are_refused(make: Make) -> None:
    of = parameters()
    with pytest.raises(TypeError, match="weight_deacy"):
        make(of, weight_deacy=0.1)
    with pytest.raises(ValueError, match=r"key of a parameter group must be one of .*, got 'weight_deacy'"):
        make([{"params": of, "weight_deacy": 0.1}])
    with pytest.raises(ValueError, match="params must not repeat a parameter in one group"):
        make([of[0], of[0]])
    with pytest.raises(ValueError, match="empty parameter list"):
        make([])
    with pytest.raises(TypeError, match="param_group must be dict, got list"):
        make(of).add_param_group([of[0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"param_group must have params, got \['lr'\]"):
        make([{"lr": 0.1}])


@every
def test_complex_integer_and_sparse_tensors_are_refused(make: Make) -> None:
    some = torch.zeros(3)
    for parameter in (some.to(torch.complex64), some.long(), some.to_sparse()):
        with pytest.raises(TypeError, match="params must be dense and real, got"):
            make([parameter])
    embedding = nn.Embedding(4, 2, sparse=True)
    before = torch.randn(2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kept = before.detach().clone()
    before.grad = torch.ones(2)
    optimizer = make([{"params": [before]}, {"params": [embedding.weight]}])
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="gradients must be dense"):
        optimizer.step()
    assert torch.equal(before.detach(), kept)
    assert not state_tensors(optimizer)


@every
def test_a_closure_is_called_with_gradients_and_its_loss_returned(make: Make) -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = make([weight])

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.detach()

    assert float(optimizer.step(closure)) == 3.0  # type: ignore[arg-type]
    assert float(optimizer.step(closure)) < 3.0  # type: ignore[arg-type]
    assert optimizer.step() is None


@every
def test_a_scheduler_survives_a_checkpoint(make: Make) -> None:
    def start() -> tuple[list[Tensor], torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        of = parameters()
        optimizer = make(of)
        return (
            of,
            optimizer,
            torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12, cycle_momentum=False),
        )

    def advance(state: Any, steps: range) -> None:
        of, optimizer, scheduler = state
        for step in steps:
            run(optimizer, of, range(step, step + 1))
            scheduler.step()

    whole, first, second = start(), start(), start()
    advance(whole, range(10))
    advance(first, range(5))
    with torch.no_grad():
        for old, new in zip(first[0], second[0], strict=True):
            new.copy_(old)
    second[1].load_state_dict(first[1].state_dict())
    second[2].load_state_dict(first[2].state_dict())
    advance(second, range(5, 10))
    assert_same(values(whole[0]), values(second[0]))


@every
def test_a_gradient_scaler_skips_infinite_gradients_and_otherwise_changes_nothing(make: Make) -> None:
    one, other = parameters(), parameters()
    plain, scaled = make(one), make(other)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(4):
        for of in (one, other):
            for parameter in of:
                parameter.grad = None
        total = sum((parameter.cos().sum() for parameter in one if parameter.requires_grad), torch.zeros(()))
        total.backward()
        again = sum((parameter.cos().sum() for parameter in other if parameter.requires_grad), torch.zeros(()))
        scaler.scale(again).backward()
        if step == 2:
            assert other[0].grad is not None
            other[0].grad[0, 0] = math.inf
            before = values(other)
            scaler.step(scaled)
            assert_same(values(other), before)
        else:
            scaler.step(scaled)
            plain.step()
            assert_same(values(one), values(other))
        scaler.update()


@every
def test_hooks_around_a_step_are_called(make: Make) -> None:
    of = parameters()
    optimizer = make(of)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    run(optimizer, of, range(1))
    assert calls == ["before", "after"]


@own
def test_parameters_without_gradient_wait_for_theirs(make: Make) -> None:
    of = parameters(torch.float64)
    optimizer = make(of)
    optimizer.step()
    assert not state_tensors(optimizer)
    of[2].grad = torch.ones_like(of[2])
    before = values(of)
    optimizer.step()
    assert [bool((old != new).any()) for old, new in zip(before, of, strict=True)].count(True) == 1


@every
def test_parameters_of_several_dtypes_in_one_group_move_as_if_apart(make: Make) -> None:
    mixed = [parameters()[0], parameters(torch.float64)[0]]
    apart = [parameters()[0], parameters(torch.float64)[0]]
    together = make(mixed)
    singles = [make([parameter]) for parameter in apart]
    for step in range(3):
        for of in (mixed, apart):
            for parameter in of:
                set_gradients([parameter], step)
        together.step()
        for single in singles:
            single.step()
    assert_same(values(mixed), values(apart))


class Overwriting(torch.optim.SGD):
    """Adds its decay to the gradients themselves."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach())
        return super().step(closure)


def test_the_contract_sees_planted_faults_and_those_of_others() -> None:
    with pytest.raises(AssertionError):
        test_gradients_stay_as_they_are_bit_for_bit(Overwriting, None, False)
    with pytest.raises(AssertionError, match=r"0\.005"):  # the scheduler of one optimizer moves the other
        test_a_learning_rate_in_a_tensor_is_copied_and_walks_like_the_number(
            partial(torch.optim.AdamW, fused=True), None
        )
    with pytest.raises(AssertionError):  # torch 2.15 reads a transposed gradient as if it were not
        test_gradients_and_parameters_laid_out_otherwise_take_the_same_steps(
            lambda params, **options: torch.optim.SGD(params, lr=0.1, fused=True), None
        )
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):  # a typo in a group
        test_typing_errors_are_refused(lambda *args, **options: torch.optim.AdamW(*args, **options))


# Adam moves each weight by the rate; Muon a fifth of that, and Shampoo a whole matrix, in the spectral norm, ever less
RATES = {"Muon": 0.02, "Shampoo": 0.1}


@pytest.mark.parametrize(("name", "lr"), [(name, RATES.get(name, 0.005)) for name in MAKERS])
def test_a_loss_goes_down(name: str, lr: float) -> None:
    make, generator = MAKERS[name], torch.Generator().manual_seed(0)
    model = transformer(16, 1, generator=generator, num_heads=2, context=8, vocabulary_size=11)
    tokens = torch.randint(11, (4, 9), generator=generator)
    optimizer = make(model.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
@every
def test_a_compiled_step_walks_like_the_plain_one_and_is_not_compiled_again_and_again(make: Make) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    one, other = parameters(), parameters()
    plain, compiled = make(one), make(other)
    step = torch.compile(compiled.step, backend="aot_eager")
    for number in range(14):
        set_gradients(one, number)
        set_gradients(other, number)
        plain.step()
        step()
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3
    assert not torch._dynamo.utils.counters["recompile_limit"]


@pytest.mark.parametrize("name", ["SOAP", "Shampoo"])
def test_a_step_that_fails_has_not_been_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = parameters(), parameters()
    plain, failing = MAKERS[name](one), MAKERS[name](other)
    for step in range(4):
        run(plain, one, range(step, step + 1))
        with monkeypatch.context() as patch:
            patch.setattr(CLASSES[name], "STEP", lambda *tensors, **settings: 1 / 0)
            before = copy.deepcopy(failing.state_dict())
            with pytest.raises(ZeroDivisionError):
                run(failing, other, range(step, step + 1))
            assert_same_checkpoint(failing.state_dict(), before)
        run(failing, other, range(step, step + 1))
    assert_same(values(one), values(other))


# of a group added late, gradients that come and go, rates that fall to zero, and a checkpoint in between
SHAPES = [(4, 3), (4, 3), (4, 3), (5,), (5,), (), (2, 3, 2, 2), (0, 3), (1, 4), (4, 1)]


def eventful_run(name: str, foreach: bool | None, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def is_chosen(probability: float) -> bool:
        return bool(torch.rand((), generator=generator) < probability)

    of = [draw(*shape).requires_grad_() for shape in SHAPES]
    late = draw(4, 3).requires_grad_()
    groups: list[dict[str, Any]] = [{"params": of[:5]}, {"params": of[5:], "lr": 0.03, "maximize": True}]
    optimizer = MAKERS[name](groups, foreach=foreach)
    for step in range(20):
        for parameter in [*of, late]:
            parameter.grad = None if is_chosen(0.3) else draw(*parameter.shape)
        if is_chosen(0.3):
            optimizer.param_groups[0]["lr"] = (0.0, 0.01, 0.05)[step % 3]
        optimizer.step()
        if step == 9:
            optimizer.add_param_group({"params": [late], "lr": 0.02})
        if step == 14:
            saved = optimizer.state_dict()
            optimizer = MAKERS[name]([*groups, {"params": [late]}])
            optimizer.load_state_dict(copy.deepcopy(saved))
    return [parameter.detach() for parameter in [*of, late]]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_path_takes_the_same_steps_in_an_eventful_run(name: str, seed: int) -> None:
    slow = eventful_run(name, False, seed)
    for foreach in (None, True):
        for one, other in zip(slow, eventful_run(name, foreach, seed), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
