"""Sweeps: the stack equals the runs one by one, each run is its own, and bad input is refused."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt import models
from nnopt.data import batches
from nnopt.devices import available_devices
from nnopt.seeding import Seed, seeds
from nnopt.training import SweepResult, accuracy, evaluate, fit, grid, sweep

MakeModel = Callable[[torch.Generator], nn.Module]


def sgd(parameter: Tensor, gradient: Tensor, *, lr: float | Tensor) -> Tensor:
    return parameter - lr * gradient


def momentum_sgd(
    parameter: Tensor, gradient: Tensor, buffer: Tensor, *, lr: float | Tensor, momentum: float | Tensor = 0.9
) -> tuple[Tensor, Tensor]:
    buffer = momentum * buffer + gradient
    return parameter - lr * buffer, buffer


def adam(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
) -> tuple[Tensor, Tensor, Tensor]:
    first = betas[0] * first + (1 - betas[0]) * gradient
    second = betas[1] * second + (1 - betas[1]) * gradient**2
    scale = (second / (1 - betas[1] ** step)).sqrt() + 1e-8
    return parameter - lr * (first / (1 - betas[0] ** step)) / scale, first, second


def initialize(model: nn.Module, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def mlp(generator: torch.Generator, dtype: torch.dtype = torch.float64) -> nn.Module:
    return initialize(nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)), generator, dtype)


def convnet(generator: torch.Generator) -> nn.Module:
    return initialize(
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)),
        generator,
    )


def batchnorm(generator: torch.Generator) -> nn.Module:
    return initialize(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)), generator
    )


class Attention(nn.Module):
    """One block over the image's rows, with torch's attention, a module used twice and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.mix = nn.Linear(6, 18)
        self.head = nn.Linear(6, 3)
        self.again = self.embed
        self.other = nn.Linear(4, 6)
        self.other.weight = self.embed.weight

    def forward(self, images: Tensor) -> Tensor:
        rows = images.squeeze(1)
        tokens = self.embed(rows) + self.again(rows.cos()) + self.other(rows.sin())
        query, key, value = self.mix(self.norm(tokens)).view(*tokens.shape[:2], 3, 2, 3).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        outputs: Tensor = self.head((tokens + mixed.transpose(1, 2).flatten(2)).mean(1))
        return outputs


def attention(generator: torch.Generator) -> nn.Module:
    return initialize(Attention(), generator)


def frozen(generator: torch.Generator) -> nn.Module:
    model = mlp(generator)
    next(model.parameters()).requires_grad_(False)
    return model


def frozen_but_one(generator: torch.Generator) -> nn.Module:
    model = mlp(generator).requires_grad_(False)
    model.get_parameter("3.bias").requires_grad_(True)
    return model


def rows(num_rows: int = 22, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_rows, 1, 4, 4, generator=generator).to(dtype)
    return inputs, (inputs.mean((1, 2, 3)) > 0).long() + (inputs[:, 0, 0, 0] > 0).long()


def rows_of(seed: Seed) -> tuple[Tensor, Tensor]:
    return rows(seed=seed.integer("split") % 1000)


def run(make_model: MakeModel = mlp, rule: Any = sgd, data: Any = None, **options: Any) -> SweepResult:
    defaults: dict[str, Any] = {
        "settings": grid(lr=[0.05, 0.2]),
        "seeds": seeds("sweep", 3),
        "total_steps": 12,
        "batch_size": 5,
    }
    return sweep(make_model, rule, F.cross_entropy, rows() if data is None else data, **{**defaults, **options})


def assert_equal_results(first: SweepResult, second: SweepResult, tolerance: float = 1e-9) -> None:
    close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance, equal_nan=True)
    close(first.losses, second.losses)
    assert first.tracked.keys() == second.tracked.keys()
    for name in first.tracked:
        close(first.tracked[name], second.tracked[name])
    assert torch.equal(first.diverged, second.diverged)
    for setting in range(len(first.settings)):
        for seed in range(len(first.seeds)):
            a, b = first.model(setting, seed).state_dict(), second.model(setting, seed).state_dict()
            assert a.keys() == b.keys()
            for name in a:
                close(a[name], b[name])


# -- the stack equals the runs one by one ----------------------------------------------------------------


@pytest.mark.parametrize("make_model", [mlp, convnet, batchnorm, attention, frozen])
@pytest.mark.parametrize("batch_size", [5, None])
def test_together_equals_one_by_one(make_model: MakeModel, batch_size: int | None) -> None:
    options: dict[str, Any] = {
        "rule": momentum_sgd,
        "settings": grid(lr=[0.02, 0.1], momentum=[0.5, 0.9]),
        "batch_size": batch_size,
        "schedule": lambda step: 1 / (1 + step),
        "track": {"loss": (F.cross_entropy, rows(9, seed=5)), "accuracy": (accuracy, rows(9, seed=5))},
        "track_every": 5,
    }
    together = run(make_model, **options)
    assert together.tracked_steps == [5, 10, 12]
    assert_equal_results(together, run(make_model, vectorize=False, **options))


HOUSE: dict[str, MakeModel] = {
    "mlp": lambda g: models.mlp((16, 6, 3), generator=g),
    "convnet": lambda g: models.convnet((2, 3), image_shape=(1, 4, 4), num_classes=3, generator=g),
    "resnet": lambda g: models.resnet((2, 4), in_channels=1, num_classes=3, generator=g),
    "transformer": lambda g: models.transformer(8, 1, num_heads=2, context=6, vocabulary_size=7, generator=g),
}


@pytest.mark.parametrize("name", HOUSE)
def test_the_models_of_the_house_train_together(name: str) -> None:
    inputs, targets = rows()
    loss_fn: Any = F.cross_entropy
    if name == "transformer":
        inputs = torch.randint(7, (22, 6), generator=torch.Generator().manual_seed(1))
        targets = inputs.roll(1, dims=1)
        loss_fn = sequence_loss
    together, alone = (
        sweep(
            lambda generator: HOUSE[name](generator).double(),
            momentum_sgd,
            loss_fn,
            (inputs, targets),
            settings=grid(lr=[0.02, 0.1]),
            seeds=seeds("house", 2),
            total_steps=10,
            batch_size=5,
            vectorize=vectorize,
        )
        for vectorize in (True, False)
    )
    assert_equal_results(together, alone)


def sequence_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def test_the_settings_really_differ() -> None:
    result = run(rule=momentum_sgd, settings=grid(lr=[0.02, 0.1], momentum=[0.5, 0.9]))
    final = result.losses[:, 0, -1].tolist()
    assert len({round(value, 6) for value in final}) == 4
    assert len({round(value, 6) for value in result.losses[0, :, 0].tolist()}) == 3


def test_adam_with_tuples_of_settings_equals_one_by_one_and_torch() -> None:
    chosen = [{"lr": 0.02, "betas": (0.9, 0.99)}, {"lr": 0.05, "betas": (0.5, 0.9)}]
    together = run(rule=adam, settings=chosen, total_steps=50)
    assert_equal_results(together, run(rule=adam, settings=chosen, total_steps=50, vectorize=False))
    assert_equal_results(together, run(rule=torch.optim.Adam, settings=chosen, total_steps=50), 1e-7)


def unit_length(parameter: Tensor, gradient: Tensor, *, lr: float | Tensor, copies: bool = False) -> tuple[Tensor, ...]:
    own = tuple(range(int(copies), parameter.ndim))
    return (parameter - lr * gradient / gradient.square().sum(own, keepdim=True).sqrt().clamp(min=1e-9),)


def test_a_rule_that_looks_at_whole_tensors_is_told_of_copies_and_equals_one_by_one() -> None:
    together = run(rule=unit_length)
    assert_equal_results(together, run(rule=unit_length, vectorize=False))
    with pytest.raises(ValueError, match="rule must treat every copy alone"):
        run(rule=lambda parameter, gradient, *, lr: unit_length(parameter, gradient, lr=lr))
    with pytest.raises(ValueError, match="settings must be keywords of rule, got 'copies'"):
        run(rule=unit_length, settings=grid(lr=[0.1], copies=[True]))


def one_scale(
    parameter: Tensor, gradient: Tensor, squares: Tensor, *, step: int, lr: float | Tensor, copies: bool = False
) -> tuple[Tensor, Tensor]:
    """Divide by one number for a whole tensor, which is its state."""
    new = gradient.square().flatten(int(copies)).sum(-1)
    squares = new if step == 1 else squares + new
    return parameter - lr * gradient / squares.sqrt().clamp(min=1e-9).view(-1, *[1] * (parameter.ndim - 1)), squares


def test_a_state_of_another_shape_than_its_parameter_equals_one_by_one() -> None:
    together = run(rule=one_scale)
    assert_equal_results(together, run(rule=one_scale, vectorize=False))

    def shared(parameter: Tensor, gradient: Tensor, total: Tensor, *, lr: float | Tensor) -> tuple[Tensor, Tensor]:
        return parameter - lr * gradient, gradient.flatten()[:3]

    with pytest.raises(ValueError, match="rule must keep the copies of its state, got"):
        run(rule=shared)
    with pytest.raises(ValueError, match="rule must keep shapes, got"):
        run(rule=lambda parameter, gradient, *, lr: parameter.flatten())


def test_a_set_of_rows_for_each_seed_equals_one_by_one() -> None:
    options: dict[str, Any] = {
        "data": rows_of,
        "track": {"loss": (F.cross_entropy, rows_of), "same rows": (F.cross_entropy, rows(7))},
        "track_every": 4,
    }
    for batch_size in (5, None):
        together = run(batch_size=batch_size, **options)
        assert_equal_results(together, run(batch_size=batch_size, vectorize=False, **options))
    torch.testing.assert_close(together.evaluate(F.cross_entropy, rows_of), together.tracked["loss"][:, :, -1])


def test_copies_beyond_one_piece_of_memory_equal_one_by_one() -> None:
    def wide(generator: torch.Generator) -> nn.Module:
        return initialize(nn.Sequential(nn.Flatten(), nn.Linear(16, 700), nn.ReLU(), nn.Linear(700, 3)), generator)

    options: dict[str, Any] = {"rule": momentum_sgd, "total_steps": 4, "settings": grid(lr=[0.01, 0.02, 0.03])}
    together = run(wide, **options)
    assert 700 * 16 * 9 > 3 * 32_768
    assert_equal_results(together, run(wide, vectorize=False, **options))


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_float32_stays_close_on_every_device(device: torch.device) -> None:
    data = tuple(part.to(device) for part in rows(dtype=torch.float32))
    options: dict[str, Any] = {"rule": adam, "settings": grid(lr=[0.01, 0.03]), "data": data}
    make_model = partial(mlp, dtype=torch.float32)
    together = run(make_model, **options)
    assert together.losses.device.type == "cpu"
    assert next(together.model(0, 0).parameters()).device.type == device.type
    assert_equal_results(together, run(make_model, vectorize=False, **options), 1e-3)


def test_one_by_one_equals_fit_with_the_loader_and_an_optimizer_of_torch() -> None:
    result = run(rule=torch.optim.SGD, settings=[{"lr": 0.1, "momentum": 0.9}], schedule=lambda step: 0.9**step)
    together = run(rule=momentum_sgd, settings=[{"lr": 0.1, "momentum": 0.9}], schedule=lambda step: 0.9**step)
    for index, seed in enumerate(result.seeds):
        model = mlp(seed.generator("initialization"))
        loader = batches(*rows(), batch_size=5, generator=seed.generator("batches"), drop_last=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        history = fit(model, optimizer, F.cross_entropy, loader, total_steps=12, schedule=lambda step: 0.9**step)
        assert result.losses[0, index].tolist() == history.losses
        torch.testing.assert_close(
            together.losses[0, index], torch.tensor(history.losses, dtype=torch.float64), rtol=1e-9, atol=1e-9
        )


@settings(derandomize=True, deadline=None, max_examples=8)
@given(chosen=st.sets(st.integers(0, 5), min_size=1, max_size=4).map(sorted))
def test_a_seed_alone_is_the_seed_in_any_stack(chosen: list[int]) -> None:
    drawn = seeds("sweep", 6)
    whole = run(batchnorm, seeds=drawn)
    some = run(batchnorm, seeds=[drawn[i] for i in chosen], settings=grid(lr=[0.2]))
    torch.testing.assert_close(some.losses[0], whole.losses[1, chosen], rtol=1e-9, atol=1e-9)


def test_a_planted_exchange_of_copies_would_be_seen() -> None:
    """If the stack gave copy 0 the batches of another seed, the equality above would fail."""
    together, alone = run(), run(vectorize=False)
    assert (together.losses[0, 0] - alone.losses[0, 1]).abs().max() > 1e-3
    assert (together.losses[0, 0] - alone.losses[1, 0]).abs().max() > 1e-3


# -- divergence, randomness, purity ------------------------------------------------------------------------


def test_a_diverged_run_leaves_the_others_alone_and_is_reported() -> None:
    options: dict[str, Any] = {
        "settings": grid(lr=[0.05, 1e200]),
        "track": {"loss": (F.cross_entropy, rows(9))},
        "track_every": 3,
    }
    result = run(**options)
    assert result.diverged.tolist() == [[False] * 3, [True] * 3]
    assert result.losses[0].isfinite().all()
    assert result.losses[1, :, -1].isnan().all()
    assert result.losses[1, :, 0].isfinite().all()
    assert result.evaluate(accuracy, rows())[1].isnan().all()
    assert_equal_results(result.__class__(**{**vars(result)}), result)
    alone = run(settings=grid(lr=[0.05]))
    torch.testing.assert_close(result.losses[0], alone.losses[0], rtol=1e-12, atol=1e-12)
    slow = run(vectorize=False, **options)
    torch.testing.assert_close(slow.losses, result.losses, rtol=1e-9, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(slow.tracked["loss"], result.tracked["loss"], rtol=1e-9, atol=1e-9, equal_nan=True)


def with_dropout(generator: torch.Generator) -> nn.Module:
    return initialize(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 3)), generator
    )


def test_dropout_differs_between_copies_repeats_and_leaves_the_global_state() -> None:
    one = seeds("dropout", 1) * 2
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = run(with_dropout, seeds=one, settings=grid(lr=[0.1]))
    again = run(with_dropout, seeds=one, settings=grid(lr=[0.1]))
    assert torch.equal(torch.rand(2), expected)
    assert not torch.allclose(first.losses[0, 0], first.losses[0, 1])
    assert torch.equal(first.losses, again.losses)


def test_dropout_has_the_same_distribution_together_and_one_by_one() -> None:
    options: dict[str, Any] = {"settings": grid(lr=[0.1]), "seeds": seeds("dropout", 40), "total_steps": 15}
    together = run(with_dropout, **options).losses.mean(2)[0]
    alone = run(with_dropout, vectorize=False, **options).losses.mean(2)[0]
    difference = together - alone
    assert difference.abs().max() > 1e-3
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(40)


def test_the_data_and_what_make_model_returned_are_left_as_they_were() -> None:
    inputs, targets = rows()
    kept = inputs.clone(), targets.clone()
    made: list[nn.Module] = []

    def make(generator: torch.Generator) -> nn.Module:
        made.append(batchnorm(generator))
        return made[-1]

    for vectorize in (True, False):
        made.clear()
        run(make, data=(inputs, targets), vectorize=vectorize)
        assert torch.equal(inputs, kept[0])
        assert torch.equal(targets, kept[1])
        fresh = batchnorm(seeds("sweep", 3)[0].generator("initialization")).state_dict()
        assert all(torch.equal(value, fresh[name]) for name, value in made[0].state_dict().items())


def test_layers_with_their_default_initialization_follow_the_seed() -> None:
    def default(generator: torch.Generator) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()

    torch.manual_seed(1)
    first = run(default)
    torch.manual_seed(2)
    assert torch.equal(run(default).losses, first.losses)
    assert not torch.allclose(first.losses[0, 0], first.losses[0, 1])
    assert_equal_results(first, run(default, vectorize=False))


# -- what one does with a result ---------------------------------------------------------------------------


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_models_are_those_that_were_evaluated(vectorize: bool) -> None:
    result = run(batchnorm, vectorize=vectorize, seeds=seeds("many", 20))
    scores = result.evaluate(accuracy, rows(15, seed=8))
    assert scores.shape == (2, 20)
    for setting, seed in ((0, 0), (1, 19), (-1, -2)):
        expected = evaluate(result.model(setting, seed), rows(15, seed=8), {"accuracy": accuracy})["accuracy"]
        assert scores[setting, seed].item() == pytest.approx(expected)
    with pytest.raises(IndexError):
        result.model(2, 0)


def lagging(
    parameter: Tensor, gradient: Tensor, lag: Tensor, *, step: int, lr: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Step against the gradient and keep how far the new point is from the mean of all points."""
    new = parameter - lr * gradient
    return new, (1 - 1 / step) * (lag + new - parameter)


def behind(parameter: Tensor, lag: Tensor) -> Tensor:
    return parameter - lag


@pytest.mark.parametrize("vectorize", [True, False])
def test_what_is_tracked_and_returned_are_the_weights_of_the_rule(vectorize: bool) -> None:
    inputs, targets = rows(9, seed=4)
    options: dict[str, Any] = {"rule": lagging, "vectorize": vectorize, "total_steps": 6, "track_every": 3}
    options |= {"settings": grid(lr=[0.3, 0.1]), "seeds": seeds("sweep", 1)}
    options |= {"track": {"loss": (F.cross_entropy, (inputs, targets))}}
    points: list[list[Tensor]] = []

    def remembered(parameter: Tensor, gradient: Tensor, *, lr: float) -> Tensor:
        points[-1].append(parameter - lr * gradient)
        return points[-1][-1]

    for steps in (3, 6):  # the slow twin: one run, all its points, and their plain mean
        points.append([])
        one: dict[str, Any] = {"settings": grid(lr=[0.3]), "seeds": seeds("sweep", 1), "vectorize": False}
        mean = run(frozen_but_one, remembered, total_steps=steps, **one).model(0, 0)
        with torch.no_grad():
            mean.get_parameter("3.bias").copy_(torch.stack(points[-1]).mean(0))
            points[-1].append(F.cross_entropy(mean(inputs), targets))
    result = run(frozen_but_one, weights_of=behind, **options)
    expected = torch.stack([path[-1] for path in points])
    torch.testing.assert_close(result.tracked["loss"][0, 0], expected, rtol=1e-10, atol=1e-10)
    final = result.evaluate(F.cross_entropy, (inputs, targets))
    torch.testing.assert_close(final, result.tracked["loss"][..., -1], rtol=1e-12, atol=1e-12)
    kept = F.cross_entropy(result.model(0, 0)(inputs), targets)
    assert kept.item() == pytest.approx(float(expected[-1]))
    other = run(frozen_but_one, **options)
    assert not torch.allclose(other.tracked["loss"], result.tracked["loss"])
    torch.testing.assert_close(other.losses, result.losses, rtol=0, atol=0)


def uphill(parameters: Any, gradients: Any, *, copies: bool = False) -> list[Tensor]:
    """Go half a unit up the slope, all parameters of a copy together."""
    norms = torch.stack(
        [gradient.flatten(int(copies)).norm(dim=-1) for gradient in gradients if gradient.ndim > copies]
    )
    length = norms.norm(dim=0)
    return [
        0.5 * gradient / (length.view(-1, *[1] * (gradient.ndim - 1)) if copies else length) for gradient in gradients
    ]


@pytest.mark.parametrize("make_model", [mlp, convnet, frozen, frozen_but_one])
def test_gradients_taken_elsewhere_equal_one_by_one(make_model: MakeModel) -> None:
    options: dict[str, Any] = {
        "rule": momentum_sgd,
        "settings": grid(lr=[0.02, 0.1], momentum=[0.5]),
        "perturb": uphill,
    }
    together = run(make_model, **options)
    assert_equal_results(together, run(make_model, vectorize=False, **options))
    plain = run(make_model, **{**options, "perturb": None})
    torch.testing.assert_close(plain.losses[..., 0], together.losses[..., 0])  # the loss is that of the parameters
    assert not torch.allclose(plain.losses[..., -1], together.losses[..., -1])


def test_a_perturbation_of_nothing_changes_nothing() -> None:
    still = run(perturb=lambda parameters, gradients, copies=False: [torch.zeros_like(p) for p in parameters])
    assert_equal_results(still, run(), tolerance=0.0)


def test_a_returned_model_is_a_copy() -> None:
    result = run()
    model = result.model(0, 0)
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert next(result.model(0, 0).parameters()).abs().sum() > 0


def test_a_sweep_answers_for_all_seeds_at_once() -> None:
    def together(drawn: list[Seed]) -> Tensor:
        scores = run(seeds=drawn).evaluate(F.cross_entropy, rows(9, seed=4))
        return scores[1] - scores[0]

    values = together(seeds("claim", 5))
    assert values.shape == (5,)
    torch.testing.assert_close(values[:2], together(seeds("claim", 2)), rtol=1e-9, atol=1e-9)


def test_the_best_setting_has_the_lowest_mean_and_lies_inside_the_grid() -> None:
    result = run(settings=grid(lr=[0.01, 0.1, 0.5, 1.0]), seeds=seeds("best", 2))
    scores = torch.tensor([[1.0, 2.0], [0.5, 1.0], [0.1, math.nan], [0.9, 0.9]])
    assert result.best(scores) == 1
    scores[3] = 0.2
    with pytest.raises(ValueError, match="the best lr must lie inside the grid, got 1 at its edge"):
        result.best(scores)
    assert result.best(scores, edge="allow") == 3
    with pytest.raises(ValueError, match="must have a setting without diverged runs"):
        result.best(torch.full((4, 2), math.nan))
    with pytest.raises(ValueError, match="scores and diverged must have the same shape"):
        result.best(scores[:2])
    with pytest.raises(ValueError, match="edge must be one of"):
        result.best(scores, edge="ignore")


def test_grid_is_every_combination_in_order() -> None:
    assert grid(lr=[1.0, 2.0], momentum=[0.0, 0.9]) == [
        {"lr": 1.0, "momentum": 0.0},
        {"lr": 1.0, "momentum": 0.9},
        {"lr": 2.0, "momentum": 0.0},
        {"lr": 2.0, "momentum": 0.9},
    ]
    with pytest.raises(ValueError, match="lr must not be empty"):
        grid(lr=[])


# -- rules and refusals --------------------------------------------------------------------------------------


def test_optimizers_and_their_makers_are_trained_one_by_one() -> None:
    def make(parameters: Any, *, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    expected = run(rule=partial(momentum_sgd, momentum=0.9))
    for rule in (make, partial(torch.optim.SGD, momentum=0.9), lambda parameters, lr: make(parameters, lr=lr)):
        assert_equal_results(run(rule=rule), expected)


def test_a_rule_with_a_closure_is_trained_one_by_one() -> None:
    result = run(rule=partial(torch.optim.LBFGS, max_iter=4), settings=grid(lr=[0.5]), batch_size=None)
    assert (result.losses[0, :, -1] < 0.5 * result.losses[0, :, 0]).all()


def test_a_shared_setting_of_any_kind_is_passed_as_it_is() -> None:
    def rule(parameter: Tensor, gradient: Tensor, *, lr: Tensor, mode: str, flip: bool) -> Tensor:
        assert mode == "plain"
        return parameter + lr * gradient * (1 if flip else -1)

    result = run(rule=rule, settings=grid(lr=[0.05, 0.2], mode=["plain"], flip=[False]))
    assert_equal_results(result, run())
    with pytest.raises(ValueError, match="flip must be a number or a tuple of numbers where settings differ"):
        run(rule=rule, settings=grid(lr=[0.1], mode=["plain"], flip=[False, True]))


def normalized(parameter: Tensor, gradient: Tensor, *, lr: float | Tensor) -> Tensor:
    scale: Tensor = gradient.norm()
    return parameter - lr * gradient / scale


def test_a_rule_that_mixes_copies_is_refused_and_works_one_by_one() -> None:
    with pytest.raises(ValueError, match="rule must treat every copy alone"):
        run(rule=normalized)
    assert not run(rule=normalized, vectorize=False).diverged.any()


def test_a_rule_that_forgets_its_state_is_refused() -> None:
    def forgetful(parameter: Tensor, gradient: Tensor, buffer: Tensor, *, lr: Tensor) -> Tensor:
        return parameter - lr * (gradient + buffer)

    with pytest.raises(ValueError, match="rule must return the parameter and its 1 states, got 1 tensors"):
        run(rule=forgetful)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.linear(images.flatten(1))
        if bool(outputs.sum() > 0):
            outputs = -outputs
        return outputs


def test_a_model_that_torch_cannot_vectorize_is_refused_by_name_and_works_one_by_one() -> None:
    def make(generator: torch.Generator) -> nn.Module:
        return initialize(Branching(), generator)

    with pytest.raises(RuntimeError, match="model or loss cannot be vectorized by torch, pass vectorize=False"):
        run(make)
    assert run(make, vectorize=False).losses.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"settings": []}, ValueError, "settings must not be empty"),
        ({"settings": [{"momentum": 0.9}]}, ValueError, "settings must all have the same names and an lr"),
        ({"settings": [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}]}, ValueError, "must all have the same names"),
        ({"settings": grid(lr=[0.1], momentun=[0.9])}, ValueError, "settings must be keywords of rule, got 'momentun'"),
        ({"settings": grid(lr=[0.1, math.nan])}, ValueError, "lr of a setting must be finite"),
        ({"seeds": []}, ValueError, "seeds must not be empty"),
        ({"total_steps": 0}, ValueError, "total_steps must be >= 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
        ({"batch_size": 23}, ValueError, "batch_size must be <= 22, the rows, got 23"),
        ({"schedule": lambda step: 2.0 - step}, ValueError, r"schedule\(3\) must be >= 0, got -1.0"),
        ({"track_every": 3}, ValueError, "track_every must not be given without track"),
        ({"track": {}, "track_every": 0}, ValueError, "track_every must be >= 1, got 0"),
        ({"data": (rows()[0], rows()[1][1:])}, ValueError, "must have as many rows, got 22 and 21"),
        ({"data": lambda seed: rows(20 + seed.index)}, ValueError, "data must have the same shapes for every seed"),
        ({"rule": torch.optim.SGD, "vectorize": True}, ValueError, "vectorize must not be True for an optimizer"),
        ({"rule": torch.optim.SGD, "weights_of": behind}, ValueError, "weights_of must be None for an optimizer"),
        ({"rule": torch.optim.SGD, "perturb": uphill}, ValueError, "perturb must be None for an optimizer"),
        ({"perturb": lambda p, g, copies: g[1:]}, ValueError, "perturb must return the shapes of the parameters"),
        ({"rule": lagging, "weights_of": lambda p, lag: lag[0]}, ValueError, "weights_of must keep shapes"),
        (
            {"rule": lagging, "weights_of": lambda p, lag: lag[0], "vectorize": False},
            ValueError,
            "weights_of must keep shapes",
        ),
        ({"rule": lambda *, lr: lr}, TypeError, "rule must take .parameter, gradient"),
        ({"rule": lambda parameters, lr: 3, "vectorize": False}, TypeError, "rule must return an optimizer, got int"),
        ({"rule": lambda parameter, gradient, *, lr: 3}, TypeError, "rule must return a tensor"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(**options)


def test_a_loss_without_reduction_is_refused() -> None:
    loss_fn = partial(F.cross_entropy, reduction="none")
    for vectorize in (True, False):
        with pytest.raises(ValueError, match=r"loss_fn must return a 0-d tensor, got shape \(5,\)"):
            sweep(
                mlp,
                sgd,
                loss_fn,
                rows(),
                settings=grid(lr=[0.1]),
                seeds=seeds("loss", 2),
                total_steps=1,
                batch_size=5,
                vectorize=vectorize,
            )


def test_the_bar_is_silent_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    run(progress=True)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_settings_are_copied() -> None:
    chosen = grid(lr=[0.05, 0.2])
    result = run(settings=chosen)
    before = copy.deepcopy(result.settings)
    chosen[0]["lr"] = 7.0
    assert result.settings == before
