"""Parameters in one buffer: the same steps, checkpoints that can be exchanged, and refusals that change nothing."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnopt.devices import available_devices
from nnopt.models import convnet, mlp
from nnopt.optimizers import Lion, SharpnessAware, flat

OPTIM = torch.optim
RULES: dict[str, tuple[type[OPTIM.Optimizer], dict[str, Any]]] = {
    "SGD": (OPTIM.SGD, {"lr": 0.1}),
    "SGD, Nesterov": (OPTIM.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "Adam, AMSGrad": (OPTIM.Adam, {"lr": 0.01, "amsgrad": True}),
    "AdamW, fused": (OPTIM.AdamW, {"lr": 0.01, "fused": True}),
    "Adagrad": (OPTIM.Adagrad, {"lr": 0.1}),
    "Adadelta": (OPTIM.Adadelta, {"lr": 1.0}),
    "Adamax": (OPTIM.Adamax, {"lr": 0.01}),
    "NAdam": (OPTIM.NAdam, {"lr": 0.01}),
    "RAdam": (OPTIM.RAdam, {"lr": 0.01}),
    "RMSprop": (OPTIM.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "Rprop": (OPTIM.Rprop, {"lr": 0.01}),
    "Lion": (Lion, {"lr": 0.01, "weight_decay": 0.1}),
}
every_rule = pytest.mark.parametrize("rule", RULES)


def network(seed: int = 0, device: torch.device | str = "cpu") -> nn.Module:
    return mlp((6, 5, 3), generator=torch.Generator().manual_seed(seed)).double().to(device)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    device = next(model.parameters()).device
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 6, generator=generator, dtype=torch.float64).to(device)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), torch.randint(3, (8,), generator=generator).to(device)).backward()
        optimizer.step()


def make(rule: str, model: nn.Module) -> torch.optim.Optimizer:
    kind, settings = RULES[rule]
    return kind(model.parameters(), **settings)


def assert_equal_models(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@every_rule
@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_steps_are_those_of_the_plain_optimizer(rule: str, device: torch.device) -> None:
    plain, other = network(device=device), network(device=device)
    train(plain, make(rule, plain), range(50))
    train(other, flat(make(rule, other)), range(50))
    assert_equal_models(plain, other)


@every_rule
def test_checkpoints_are_exchanged_with_the_plain_optimizer_both_ways(rule: str) -> None:
    def plain(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return optimizer

    ends = []
    for first, second in ((plain, plain), (plain, flat), (flat, plain), (flat, flat)):
        start = network()
        optimizer = first(make(rule, start))
        train(start, optimizer, range(4))
        file = io.BytesIO()
        torch.save({"model": start.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        resumed = network(seed=1)
        continued = second(make(rule, resumed))
        resumed.load_state_dict(saved["model"])
        continued.load_state_dict(saved["optimizer"])
        train(resumed, continued, range(4, 8))
        ends.append(resumed)
    for end in ends[1:]:
        assert_equal_models(ends[0], end)


@every_rule
def test_an_optimizer_in_the_middle_of_a_run_can_be_made_flat(rule: str) -> None:
    plain, other = network(), network()
    train(plain, make(rule, plain), range(6))
    optimizer = make(rule, other)
    train(other, optimizer, range(3))
    train(other, flat(optimizer), range(3, 6))
    assert_equal_models(plain, other)


def test_a_checkpoint_looks_like_that_of_the_plain_optimizer_and_shares_no_memory() -> None:
    plain, other = network(), network()
    optimizers = [make("AdamW, fused", plain), flat(make("AdamW, fused", other))]
    for model, optimizer in zip((plain, other), optimizers, strict=True):
        train(model, optimizer, range(3))
    expected, found = (optimizer.state_dict() for optimizer in optimizers)
    assert expected["param_groups"] == found["param_groups"]
    assert expected["state"].keys() == found["state"].keys()
    for key, state in expected["state"].items():
        torch.testing.assert_close(found["state"][key], state, rtol=1e-12, atol=1e-12)
    kept = copy.deepcopy(found)
    train(other, optimizers[1], range(3, 5))
    assert all(torch.equal(kept["state"][0][name], found["state"][0][name]) for name in kept["state"][0])


def test_the_model_keeps_its_parameters_and_values_and_gradients_live_in_one_buffer() -> None:
    model = network()
    *_, frozen = model.parameters()
    frozen.requires_grad_(False)
    address = frozen.data_ptr()
    before = [(id(parameter), parameter.detach().clone()) for parameter in model.parameters()]
    optimizer = flat(make("AdamW, fused", model))
    for (identity, value), parameter in zip(before, model.parameters(), strict=True):
        assert id(parameter) == identity
        assert torch.equal(parameter.detach(), value)
        assert parameter.is_leaf
    assert frozen.data_ptr() == address
    live = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len({parameter.untyped_storage().data_ptr() for parameter in live}) == 1
    train(model, optimizer, range(1))
    assert all(parameter.data_ptr() % 64 == live[0].data_ptr() % 64 for parameter in live)  # as aligned as the first
    assert len({p.grad.untyped_storage().data_ptr() for p in live if p.grad is not None}) == 1
    assert optimizer.param_groups[0]["params"][0] is next(model.parameters())


def test_clipping_in_place_reaches_the_step() -> None:
    plain, other = network(), network()
    for model, optimizer in ((plain, make("SGD", plain)), (other, flat(make("SGD", other)))):
        for step in range(3):
            optimizer.zero_grad()
            (100 * sum((p.cos().sum() for p in model.parameters()), torch.zeros(())) * (step + 1)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    assert_equal_models(plain, other)


def test_gradients_set_to_none_by_the_model_are_read_where_they_are_made() -> None:
    plain, other = network(), network()
    for model, optimizer in ((plain, make("Adam, AMSGrad", plain)), (other, flat(make("Adam, AMSGrad", other)))):
        for step in range(4):
            model.zero_grad()  # sets them to None: backward makes new ones, outside the buffer
            (step + sum((p.cos().sum() for p in model.parameters()), torch.zeros(()))).backward()
            optimizer.step()
    assert_equal_models(plain, other)


def test_a_parameter_that_the_loss_does_not_reach_has_a_gradient_of_zero() -> None:
    ends: list[list[Tensor]] = []
    for change in (lambda plain: plain, flat):
        one, other = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
        optimizer = change(torch.optim.SGD([one, other], lr=0.1, momentum=0.9))
        (one.sum() + other.sum()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        one.sum().backward()
        optimizer.step()
        ends.append([one.detach(), other.detach()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert ends[0][1][0] < 0.9  # the momentum went on


def test_groups_are_apart_and_a_group_without_gradients_waits() -> None:
    one, other = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = flat(torch.optim.SGD([{"params": [one], "lr": 0.5}], lr=0.1))
    optimizer.add_param_group({"params": other})
    one.sum().backward()
    optimizer.step()
    assert float(one.detach()[0]) == 0.5
    assert float(other.detach()[0]) == 1.0
    optimizer.param_groups[1]["lr"] = 0.25
    optimizer.zero_grad()
    (one.sum() + other.sum()).backward()
    optimizer.step()
    assert (float(one.detach()[0]), float(other.detach()[0])) == (0.0, 0.75)


def test_convolutions_in_another_memory_order_walk_alike() -> None:
    plain = convnet((1, 4), generator=torch.Generator().manual_seed(0), num_classes=3).double()
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    for model, optimizer in ((plain, make("AdamW, fused", plain)), (other, flat(make("AdamW, fused", other)))):
        for step in range(3):
            inputs = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    assert_equal_models(plain, other)


def test_what_cannot_be_flat_is_refused_and_left_as_it_was() -> None:
    model = network()
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    with pytest.raises(TypeError, match="optimizer must be Optimizer, got list"):
        flat([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"class of optimizer must be one of .*SGD.*, got .*LBFGS"):
        flat(torch.optim.LBFGS(model.parameters()))
    with pytest.raises(TypeError, match=r"params must be dense and real, got torch\.complex64"):
        flat(torch.optim.SGD([torch.zeros(2, dtype=torch.complex64)], lr=0.1))
    uneven = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    uneven.step()
    with pytest.raises(ValueError, match="parameters of one group must have taken equally many steps"):
        flat(uneven)
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
    assert uneven.param_groups[0]["params"][0] is next(model.parameters())


def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    model = network()
    optimizer = flat(make("AdamW, fused", model))
    train(model, optimizer, range(2))
    kept = copy.deepcopy(optimizer.state_dict())
    other = network()
    foreign = make("SGD", other)
    with pytest.raises(ValueError, match="checkpoint must have the setting 'betas'"):
        optimizer.load_state_dict(foreign.state_dict())
    uneven = copy.deepcopy(kept)
    uneven["state"][1]["step"] += 1
    with pytest.raises(ValueError, match="parameters of one group must have taken equally many steps"):
        optimizer.load_state_dict(uneven)
    small = flat(torch.optim.AdamW([torch.ones(2, requires_grad=True)]))
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict(small.state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == kept["param_groups"]
    for key, state in kept["state"].items():
        assert all(torch.equal(value, after["state"][key][name]) for name, value in state.items())


def test_parameters_that_left_the_buffer_are_named() -> None:
    model = network()
    optimizer = flat(make("SGD", model))
    train(model, optimizer, range(1))
    model.float()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=r"parameters must stay in the buffer, got parameter 0 of shape \(5, 6\)"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_gradient_that_is_missing_beside_others_is_refused_and_nothing_moves() -> None:
    model = network()
    optimizer = flat(make("SGD", model))
    optimizer.step()  # no gradients at all: nothing to do
    before = [parameter.detach().clone() for parameter in model.parameters()]
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    with pytest.raises(ValueError, match="all parameters must have a gradient, got 3 of 4 without"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_unknown_key_of_a_group_is_refused() -> None:
    one, other = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = flat(torch.optim.SGD([one], lr=0.1))
    with pytest.raises(ValueError, match=r"key of a parameter group must be one of .*, got 'weight_deacy'"):
        optimizer.add_param_group({"params": [other], "weight_deacy": 0.1})
    assert len(optimizer.param_groups) == 1


def test_schedulers_come_after_it_and_their_keys_are_carried() -> None:
    model = network()
    plain = torch.optim.AdamW(model.parameters(), lr=0.01)
    torch.optim.lr_scheduler.StepLR(plain, 2)
    with pytest.raises(ValueError, match="optimizer must have no scheduler yet"):
        flat(plain)
    assert plain.param_groups[0]["params"][0] is next(model.parameters())
    optimizer = flat(torch.optim.AdamW(model.parameters(), lr=0.01))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=8)
    train(model, optimizer, range(1))
    schedule.step()
    twin, other = copy.deepcopy((model, optimizer))
    for one, walker in ((model, optimizer), (twin, other)):
        train(one, walker, range(1, 3))
    assert_equal_models(model, twin)
    assert optimizer.param_groups[0]["lr"] != 0.01


def test_a_parameter_unfrozen_later_is_not_forgotten_silently() -> None:
    model = network()
    *_, last = model.parameters()
    last.requires_grad_(False)
    optimizer = flat(make("SGD", model))
    train(model, optimizer, range(1))
    last.requires_grad_(True)
    with pytest.raises(ValueError, match="parameters must stay frozen, got one unfrozen"):
        optimizer.step()


def test_it_is_not_pickled_and_takes_no_states_of_other_shapes() -> None:
    model = network()
    optimizer = flat(make("AdamW, fused", model))
    train(model, optimizer, range(2))
    with pytest.raises(TypeError, match="must not be pickled: save its state_dict"):
        torch.save(optimizer, io.BytesIO())
    damaged = copy.deepcopy(optimizer.state_dict())
    damaged["state"][1]["exp_avg"] = torch.zeros(1)
    with pytest.raises(ValueError, match="must have the same shape"):
        optimizer.load_state_dict(damaged)


def test_lion_inside_survives_copying_reloading_pickling_and_schedules() -> None:
    def schedule_of(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=30)

    plain, other = network(), network()
    one, two = make("Lion", plain), flat(make("Lion", other))
    schedules = schedule_of(one), schedule_of(two)
    for step in range(3):
        train(plain, one, range(step, step + 1))
        train(other, two, range(step, step + 1))
        for schedule in schedules:
            schedule.step()
    twin, copied = copy.deepcopy((other, two))  # the groups hold keys of the scheduler
    reloaded = network()
    fresh = make("Lion", reloaded)
    fresh.load_state_dict(one.state_dict())
    reloaded.load_state_dict(plain.state_dict())
    pickled_model, pickled = pickle.loads(pickle.dumps((plain, one)))
    walkers = [(other, two), (twin, copied), (reloaded, flat(fresh)), (pickled_model, flat(pickled))]
    train(plain, one, range(3, 6))
    for model, optimizer in walkers:
        train(model, optimizer, range(3, 6))
        assert_equal_models(plain, model)
        late = torch.ones(2, requires_grad=True)
        SharpnessAware(optimizer, radius=0.1).add_param_group({"params": [late], "lr": 0.25})
        model.zero_grad()
        late.sum().backward()
        optimizer.step()
        assert float(late.detach()[0]) < 1.0


@pytest.mark.parametrize("kind", [Lion, OPTIM.AdamW])
def test_a_group_that_is_refused_leaves_everything_as_it_was(kind: Any) -> None:
    weight, late = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = flat(kind([weight], lr=0.1, weight_decay=0.0))
    address = late.data_ptr()
    wrongs: list[dict[str, Any]] = [{"params": [late], "lr": -1.0}, {"params": [late, weight]}]
    if kind is Lion:
        wrongs.append({"params": [late], "betas": (0.9, 1.0)})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"must be|more than one parameter group"):
            optimizer.add_param_group(wrong)
        assert len(optimizer.param_groups) == 1
        assert late.data_ptr() == address
    weight.sum().backward()
    optimizer.step()
    optimizer.add_param_group({"params": [late], "lr": 0.25})
    optimizer.zero_grad()
    (weight.sum() + late.sum()).backward()
    optimizer.step()
    assert float(weight.detach()[0]) == pytest.approx(0.8)
    assert float(late.detach()[0]) == pytest.approx(0.75)
    assert len(optimizer.state_dict()["state"]) == 2
    with pytest.raises(ValueError, match=r"lr must be >= 0, got -1\.0"):
        flat(OPTIM.AdamW([{"params": [torch.ones(1, requires_grad=True)], "lr": -1.0}]))


@every_rule
def test_what_was_learned_of_a_layer_that_is_frozen_now_stays_in_the_checkpoint(rule: str) -> None:
    saved = []
    for change in (lambda plain: plain, flat):
        model = network()
        optimizer = make(rule, model)
        train(model, optimizer, range(2))
        next(model.parameters()).requires_grad_(False)
        optimizer.zero_grad()
        optimizer = change(optimizer)
        train(model, optimizer, range(2, 4))
        saved += [optimizer.state_dict(), copy.deepcopy(optimizer.state_dict())]
        optimizer.load_state_dict(saved[-1])
        saved[-1] = optimizer.state_dict()
    for other in saved[1:]:
        assert other["state"].keys() == saved[0]["state"].keys()
        for key, state in saved[0]["state"].items():
            # torch reads a product of NAdam in the dtype of the parameter
            torch.testing.assert_close(other["state"][key], state, rtol=1e-6, atol=1e-6, check_dtype=False)


def test_the_optimizer_that_was_taken_over_says_so() -> None:
    model = network()
    plain = make("SGD", model)
    steps: list[str] = []
    plain.register_step_post_hook(lambda *_: steps.append("taken"))
    optimizer = flat(plain)
    train(model, optimizer, range(1))
    assert steps == ["taken"]
    with pytest.raises(RuntimeError, match="step must be of the flat optimizer, got the one that it has taken over"):
        plain.step()
    with pytest.raises(ValueError, match="optimizer must not be in a flat optimizer yet, got one that is: use that"):
        flat(plain)
    with pytest.raises(ValueError, match="class of optimizer must be one of"):
        flat(optimizer)
    twin, other = copy.deepcopy((model, optimizer))
    train(twin, other, range(1, 3))
    train(model, optimizer, range(1, 3))
    assert_equal_models(model, twin)
