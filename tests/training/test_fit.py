"""The training loop: what it computes, what it refuses, and that it resumes bit for bit."""

import copy
import errno
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nnopt import storage
from nnopt.devices import available_devices
from nnopt.optimizers import ScheduleFreeAdamW
from nnopt.training import History, StepRecord, fit

Pairs = list[tuple[Tensor, Tensor]]


class Shuffled:
    """Rows in a new order each epoch, drawn from a generator: the contract of ``nnopt.data.batches``."""

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int, seed: int) -> None:
        self.inputs, self.targets, self.batch_size = inputs, targets, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.inputs), generator=self.generator)
        for rows in order.split(self.batch_size):
            yield self.inputs[rows], self.targets[rows]


def rows(num_rows: int = 23) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_rows, 5, generator=generator)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def pairs(batch_size: int = 6) -> Pairs:
    inputs, targets = rows()
    return list(zip(inputs.split(batch_size), targets.split(batch_size)))


def network(*, dropout: float = 0.0, batchnorm: bool = False, seed: int = 1) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(5, 7),
            nn.BatchNorm1d(7) if batchnorm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(7, 3),
        )


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_after(step: int) -> Any:
    return lambda record: record.step >= step


# -- what it computes --------------------------------------------------------------------------------


def test_equals_the_loop_written_by_hand() -> None:
    model = network()
    twin = copy.deepcopy(model)
    data = pairs()
    history = fit(
        model, torch.optim.AdamW(model.parameters(), lr=0.02, fused=True), F.cross_entropy, data, num_epochs=3
    )
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.02, fused=True)
    losses = []
    for _ in range(3):
        for inputs, targets in data:
            loss = F.cross_entropy(twin(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert same(model, twin)
    assert history.losses == losses
    assert (history.num_steps, history.num_epochs, history.stopped_by) == (12, 3, "length")


def test_learns_the_problem() -> None:
    model = network()
    history = fit(model, sgd(model, 0.5), F.cross_entropy, pairs(), num_epochs=60)
    assert history.losses[-1] < 0.2 * history.losses[0]


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_batches_are_moved_to_the_device_of_the_model(device: torch.device) -> None:
    model = network().to(device)
    history = fit(model, sgd(model), F.cross_entropy, pairs(), num_epochs=1)
    assert history.num_steps == 4
    assert next(model.parameters()).device.type == device.type


def test_total_steps_repeats_epochs_and_stops_inside_one() -> None:
    model = network()
    history = fit(model, sgd(model), F.cross_entropy, pairs(), total_steps=10)
    assert (history.num_steps, history.num_epochs) == (10, 2)


def test_the_schedule_multiplies_the_lr_of_every_group_and_leaves_it_as_it_was() -> None:
    model = network()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.4}, {"params": model[4].parameters(), "lr": 0.1}]
    )
    seen: list[list[float]] = []

    def note(record: StepRecord) -> None:
        seen.append([group["lr"] for group in record.optimizer.param_groups])

    history = fit(model, optimizer, F.cross_entropy, pairs(), total_steps=3, schedule=lambda t: 0.5**t, hooks=[note])
    assert seen == [[0.4, 0.1], [0.2, 0.05], [0.1, 0.025]]
    assert history.lrs == [0.4, 0.2, 0.1]
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.1]


def test_a_tensor_lr_of_the_caller_is_never_written() -> None:
    model = network()
    lr = torch.tensor(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    history = fit(model, optimizer, F.cross_entropy, pairs(), total_steps=3, schedule=lambda t: 0.5**t)
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == pytest.approx(0.1)
    assert history.lrs == pytest.approx([0.1, 0.05, 0.025])


def test_without_a_schedule_a_hook_may_change_the_lr() -> None:
    def halve(record: StepRecord) -> None:
        record.optimizer.param_groups[0]["lr"] /= 2

    model = network()
    history = fit(model, sgd(model, 0.8), F.cross_entropy, pairs(), total_steps=3, hooks=[halve])
    assert history.lrs == [0.8, 0.4, 0.2]


def test_max_norm_clips_the_total_norm_and_reports_it_before() -> None:
    model = network()
    twin = copy.deepcopy(model)
    inputs, targets = pairs()[0]
    F.cross_entropy(twin(inputs), targets).backward()
    total = math.sqrt(sum(float((p.grad**2).sum()) for p in twin.parameters() if p.grad is not None))
    history = fit(model, sgd(model, 1.0), F.cross_entropy, [(inputs, targets)], total_steps=1, max_norm=0.05)
    moved = math.sqrt(sum(float(((a - b).detach() ** 2).sum()) for a, b in zip(model.parameters(), twin.parameters())))
    assert history.gradient_norms == pytest.approx([total])
    assert total > 0.1
    assert moved == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("batch_size", [8, 5])
def test_accumulation_equals_one_large_batch_also_with_a_smaller_tail(batch_size: int) -> None:
    inputs, targets = rows()
    model = network().double()
    twin = copy.deepcopy(model)
    small = list(zip(inputs.double().split(batch_size), targets.split(batch_size)))
    fit(model, sgd(model), F.cross_entropy, small, num_epochs=4, accumulate=len(small))
    fit(twin, sgd(twin), F.cross_entropy, [(inputs.double(), targets)], num_epochs=4)
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_mean_of_batch_means_would_not_equal_the_large_batch() -> None:
    inputs, targets = rows()
    model = network().double()
    means = [F.cross_entropy(model(x), y) for x, y in zip(inputs.double().split(5), targets.split(5), strict=True)]
    whole = F.cross_entropy(model(inputs.double()), targets)
    assert abs((torch.stack(means).mean() - whole).item()) > 1e-4


def test_the_last_group_of_an_epoch_may_be_shorter() -> None:
    model = network()
    assert fit(model, sgd(model), F.cross_entropy, pairs(), num_epochs=2, accumulate=3).num_steps == 4


def test_an_optimizer_that_evaluates_several_times_works() -> None:
    model = network().double()
    inputs, targets = rows()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    data = [(inputs.double(), targets)]
    history = fit(model, optimizer, F.cross_entropy, data, total_steps=10)
    assert history.num_steps == 10
    assert history.losses[-1] < 0.1 * history.losses[0]


def test_a_model_in_evaluation_mode_is_trained_in_training_mode_and_given_back_as_it_was() -> None:
    model = network(dropout=0.5).eval()
    modes: list[bool] = []
    fit(
        model,
        sgd(model),
        F.cross_entropy,
        pairs(),
        total_steps=2,
        hooks=[lambda record: modes.append(record.model.training)],
    )
    assert modes == [True, True]
    assert not model.training


def test_a_layer_frozen_in_evaluation_mode_stays_frozen() -> None:
    model = network(batchnorm=True)
    model[1].eval()
    before = model[1].state_dict()["running_mean"].clone()
    fit(model, sgd(model), F.cross_entropy, pairs(), total_steps=3, validate=lambda _: 1.0, validate_every=1)
    assert torch.equal(model[1].state_dict()["running_mean"], before)
    assert model.training
    assert not model[1].training


# -- hooks, validation, early stopping -----------------------------------------------------------------


def test_hooks_are_told_the_step_and_may_stop() -> None:
    records: list[StepRecord] = []
    model = network()

    def stop(record: StepRecord) -> bool:
        records.append(record)
        return record.step == 6

    history = fit(model, sgd(model), F.cross_entropy, pairs(), num_epochs=5, hooks=[stop])
    assert [(record.step, record.epoch) for record in records] == [
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 1),
        (6, 1),
    ]
    assert [record.loss for record in records] == history.losses
    assert all(record.model is model and record.gradient_norm is None for record in records)
    assert (history.num_steps, history.stopped_by) == (6, "hook")


def test_every_hook_is_called_also_when_the_first_stops() -> None:
    called: list[int] = []
    model = network()
    fit(
        model,
        sgd(model),
        F.cross_entropy,
        pairs(),
        total_steps=5,
        hooks=[lambda _: True, lambda record: called.append(record.step)],
    )
    assert called == [1]


def scripted(values: list[float], weights: list[Tensor] | None = None) -> Any:
    """A validation that answers ``values`` in turn and keeps the weights that it saw."""
    remaining = iter(values)

    def validate(model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        if weights is not None:
            weights.append(next(model.parameters()).detach().clone())
        return next(remaining)

    return validate


def test_validation_comes_after_each_epoch_and_at_the_end() -> None:
    model = network()
    history = fit(model, sgd(model), F.cross_entropy, pairs(), total_steps=10, validate=scripted([3.0, 2.0, 2.5]))
    assert history.validation_steps == [4, 8, 10]
    assert history.validation_losses == [3.0, 2.0, 2.5]
    assert history.best_step == 8


def test_patience_stops_and_restores_the_weights_of_the_best_step() -> None:
    seen: list[Tensor] = []
    model = network()
    history = fit(
        model,
        sgd(model),
        F.cross_entropy,
        pairs(),
        total_steps=100,
        validate=scripted([3.0, 2.0, 2.0, 2.1], seen),
        validate_every=2,
        patience=2,
    )
    assert (history.stopped_by, history.num_steps, history.best_step) == ("patience", 8, 4)
    assert torch.equal(next(model.parameters()), seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_training_goes_on_from_the_best_step_with_the_state_that_the_optimizer_had_there() -> None:
    def run(total_steps: int, losses: list[float]) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

        def grow(record: StepRecord) -> None:
            if record.step == 5:  # a group that the best step did not know
                optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.5})

        options: dict[str, Any] = {"validate": scripted(losses, []), "validate_every": 2, "restore_best": True}
        fit(
            model, optimizer, F.cross_entropy, pairs(), total_steps=total_steps, hooks=[grow],
            **options,
        )  # fmt: skip
        return model, optimizer

    (model, optimizer), (twin, other) = run(8, [3.0, 2.0, 2.5, 2.5]), run(4, [3.0, 2.0])
    assert same(model, twin)
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 1]
    for one, two in ((model, optimizer), (twin, other)):
        fit(one, two, F.cross_entropy, pairs(), total_steps=4)
    assert same(model, twin)


def test_the_best_answer_of_a_schedule_free_run_is_restored_as_it_was_validated() -> None:
    model = network()
    optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.2, guard=model)
    inputs, targets = rows()

    def validate(judged: nn.Module) -> Tensor:
        with optimizer.averaged():
            return F.cross_entropy(judged(inputs), 2 - targets)  # the more it learns, the worse

    history = fit(
        model, optimizer, F.cross_entropy, pairs(), total_steps=20, validate=validate, validate_every=2, patience=3
    )
    assert history.best_step is not None
    assert history.best_step < history.num_steps
    model.eval()
    with torch.no_grad():
        assert float(validate(model)) == min(history.validation_losses)


def test_the_last_weights_are_kept_when_asked() -> None:
    seen: list[Tensor] = []
    model = network()
    fit(
        model,
        sgd(model),
        F.cross_entropy,
        pairs(),
        total_steps=100,
        validate=scripted([3.0, 2.0, 2.0, 2.1], seen),
        validate_every=2,
        patience=2,
        restore_best=False,
    )
    assert torch.equal(next(model.parameters()), seen[3])


def test_validation_alone_changes_nothing_of_the_run() -> None:
    model = network(dropout=0.5)
    twin = copy.deepcopy(model)

    def noisy(validated: nn.Module) -> Tensor:
        return torch.rand(()) + 0 * next(validated.parameters()).sum()

    fit(
        model,
        sgd(model),
        F.cross_entropy,
        pairs(),
        total_steps=6,
        generator=torch.Generator().manual_seed(3),
        validate=noisy,
        validate_every=1,
    )
    fit(
        twin,
        sgd(twin),
        F.cross_entropy,
        pairs(),
        total_steps=6,
        generator=torch.Generator().manual_seed(3),
    )
    assert same(model, twin)


# -- randomness -----------------------------------------------------------------------------------------


def test_dropout_follows_the_generator_and_the_global_state_stays() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    results = []
    for seed in (1, 1, 2):
        model = network(dropout=0.5)
        fit(
            model,
            sgd(model),
            F.cross_entropy,
            pairs(),
            num_epochs=2,
            generator=torch.Generator().manual_seed(seed),
        )
        results.append(model)
    assert same(results[0], results[1])
    assert not same(results[0], results[2])
    assert torch.equal(torch.rand(3), expected)


def test_the_global_state_stays_also_when_the_run_fails() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    model = network(dropout=0.5)
    with pytest.raises(ZeroDivisionError):
        fit(model, sgd(model), F.cross_entropy, pairs(), total_steps=3, hooks=[lambda _: 1 // 0 == 0])
    assert torch.equal(torch.rand(2), expected)


# -- checkpoints ----------------------------------------------------------------------------------------


class Averager:
    """A hook with a state: the running average of the first parameter."""

    def __init__(self) -> None:
        self.average = torch.zeros(7, 5)

    def __call__(self, record: StepRecord) -> None:
        self.average = 0.9 * self.average + 0.1 * next(record.model.parameters()).detach()

    def state_dict(self) -> dict[str, Tensor]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.average = state["average"]


class Crash(Exception):
    """The machine is gone."""


def hooks_at(step: int, crash: bool) -> list[Any]:
    def die(record: StepRecord) -> None:
        if record.step == step:
            raise Crash

    return [die] if crash else [stop_after(step)]


def long_run(
    path: Path | None,
    *,
    loader: str = "shuffled",
    stop: int | None = None,
    crash: bool = False,
    resume: bool = False,
    **options: Any,
) -> tuple[nn.Module, History, torch.Generator, Tensor]:
    """Dropout, BatchNorm, shuffling, schedule, AdamW, accumulation, clipping, validation, hook with state."""
    model = network(dropout=0.4, batchnorm=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    inputs, targets = rows()
    batches: Any = Shuffled(inputs, targets, 6, seed=4)
    generator = batches.generator
    if loader == "DataLoader":
        generator = torch.Generator().manual_seed(4)
        batches = DataLoader(TensorDataset(inputs, targets), batch_size=6, shuffle=True, generator=generator)
    if loader == "global DataLoader":
        batches = DataLoader(TensorDataset(inputs, targets), batch_size=6, shuffle=True)
    average = Averager()
    history = fit(
        model,
        optimizer,
        F.cross_entropy,
        batches,
        num_epochs=4,
        schedule=lambda step: 1.0 / (1 + step),
        max_norm=1.0,
        accumulate=3,
        hooks=[average] if stop is None else [average, *hooks_at(stop, crash)],
        validate=lambda m: F.cross_entropy(m(inputs), targets),
        patience=3,
        generator=torch.Generator().manual_seed(9),
        checkpoint=path,
        resume=resume,
        **options,
    )
    return model, history, generator, average.average


def assert_same_run(first: Any, second: Any) -> None:
    (model, history, generator, average), (twin, twin_history, twin_generator, twin_average) = first, second
    assert same(model, twin)
    assert history == twin_history
    assert torch.equal(average, twin_average)
    assert torch.equal(generator.get_state(), twin_generator.get_state())


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    stops=st.lists(st.integers(1, 7), min_size=1, max_size=3, unique=True).map(sorted),
    loader=st.sampled_from(["shuffled", "DataLoader", "global DataLoader"]),
)
def test_a_run_stopped_after_any_steps_and_resumed_is_the_same_run(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], loader: str
) -> None:
    path = tmp_path_factory.mktemp("run") / "run.pt"
    for index, stop in enumerate(stops):
        _, history, _, _ = long_run(path, loader=loader, stop=stop, resume=index > 0)
        assert (history.num_steps, history.stopped_by) == (stop, "hook")
    assert_same_run(long_run(path, loader=loader, resume=True), long_run(None, loader=loader))


@settings(derandomize=True, deadline=None, max_examples=12)
@given(crash=st.integers(1, 7), every=st.integers(1, 4))
def test_a_run_that_crashed_after_any_step_continues_from_its_last_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, crash: int, every: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "run.pt"
    with pytest.raises(Crash):
        long_run(path, stop=crash, crash=True, checkpoint_every=every)
    resumed = long_run(path, resume=True, checkpoint_every=every)
    assert_same_run(resumed, long_run(None))


@pytest.mark.parametrize("forgotten", ["model", "optimizer", "random", "feed", "hooks"])
def test_each_piece_of_the_state_is_needed(tmp_path: Path, forgotten: str) -> None:
    path = tmp_path / "run.pt"
    long_run(path, stop=3)
    long_run(tmp_path / "start.pt", stop=1)
    state, start = storage.load_state(path), storage.load_state(tmp_path / "start.pt")
    if forgotten == "feed":
        state["feed"]["generator"] = torch.Generator().manual_seed(77).get_state()
    else:
        state[forgotten] = start[forgotten]
    storage.save_state(path, state)
    model, history, _, average = long_run(path, resume=True)
    twin, twin_history, _, twin_average = long_run(None)
    assert not (same(model, twin) and torch.equal(average, twin_average) and history == twin_history)


def test_a_finished_run_is_not_trained_again_and_gives_the_same_model(tmp_path: Path) -> None:
    first = long_run(tmp_path / "run.pt")
    again = long_run(tmp_path / "run.pt", resume=True)
    assert_same_run(again, first)


def test_a_run_stopped_by_patience_stays_stopped(tmp_path: Path) -> None:
    def run(resume: bool) -> tuple[nn.Module, History]:
        model = network()
        history = fit(
            model,
            sgd(model),
            F.cross_entropy,
            pairs(),
            total_steps=50,
            validate=lambda _: 1.0,
            validate_every=2,
            patience=2,
            checkpoint=tmp_path / "run.pt",
            resume=resume,
        )
        return model, history

    model, history = run(False)
    again, again_history = run(True)
    assert history.num_steps == 6
    assert again_history == history
    assert same(model, again)


def test_the_schedule_goes_on_from_the_original_lr(tmp_path: Path) -> None:
    def run(lr: float, stop: int, resume: bool) -> History:
        model = network()
        return fit(
            model,
            sgd(model, lr),
            F.cross_entropy,
            pairs(),
            total_steps=6,
            schedule=lambda t: 0.5**t,
            hooks=[stop_after(stop)],
            checkpoint=tmp_path / "run.pt",
            resume=resume,
        )

    run(0.8, 3, False)
    assert run(0.8, 100, True).lrs == [0.8, 0.4, 0.2, 0.1, 0.05, 0.025]


def test_an_existing_checkpoint_is_not_overwritten_by_a_new_run(tmp_path: Path) -> None:
    long_run(tmp_path / "run.pt", stop=3)
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(ValueError, match="must not exist unless resume=True"):
        long_run(tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == before


def test_a_full_disk_leaves_the_older_checkpoint_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    long_run(path, stop=3)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=r"checkpoint of step 4 could not be written \(No space left") as caught:
            long_run(path, resume=True, checkpoint_every=1)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert_same_run(long_run(path, resume=True), long_run(None))


def test_a_path_that_cannot_be_written_fails_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    model = network()
    twin = copy.deepcopy(model)
    with pytest.raises(OSError, match="checkpoint of step 0 could not be written"):
        fit(
            model,
            sgd(model),
            F.cross_entropy,
            pairs(),
            total_steps=3,
            checkpoint=tmp_path / "file" / "run.pt",
        )
    assert same(model, twin)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other"])
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.pt"
    long_run(path, stop=3)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 3] ^= 255
        path.write_bytes(content)
    else:
        storage.save_state(path, {"weights": torch.zeros(2)})
    model = network()
    twin = copy.deepcopy(model)
    with pytest.raises(ValueError, match="checkpoint"):
        fit(model, sgd(model), F.cross_entropy, pairs(), total_steps=9, checkpoint=path, resume=True)
    assert same(model, twin)


def test_the_checkpoint_of_another_model_or_optimizer_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, resume: bool) -> None:
        fit(
            model,
            optimizer,
            F.cross_entropy,
            pairs(),
            total_steps=2,
            checkpoint=tmp_path / "run.pt",
            resume=resume,
        )

    model = network()
    run(model, sgd(model), False)
    other = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    before = copy.deepcopy(other)
    with pytest.raises(ValueError, match="model must be that of the checkpoint"):
        run(other, sgd(other), True)
    assert same(other, before)
    model = network(seed=2)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="optimizer must have parameter groups"):
        run(model, torch.optim.SGD(model[0].parameters(), lr=0.1), True)
    assert same(model, before)


def test_a_hook_with_a_state_is_missed(tmp_path: Path) -> None:
    long_run(tmp_path / "run.pt", stop=2)
    model = network(dropout=0.4, batchnorm=True)
    with pytest.raises(ValueError, match="hooks must have 1 with a state"):
        fit(
            model,
            torch.optim.AdamW(model.parameters()),
            F.cross_entropy,
            Shuffled(*rows(), 6, seed=4),
            num_epochs=4,
            checkpoint=tmp_path / "run.pt",
            resume=True,
        )


def test_other_batches_than_those_of_the_checkpoint_are_refused(tmp_path: Path) -> None:
    def run(batches: Any, resume: bool) -> None:
        model = network()
        fit(
            model,
            sgd(model),
            F.cross_entropy,
            batches,
            total_steps=3,
            checkpoint=tmp_path / "run.pt",
            resume=resume,
        )

    run(pairs(), False)
    with pytest.raises(ValueError, match="had taken 3 of an epoch, got 2"):
        run(pairs(12), True)
    with pytest.raises(ValueError, match="batches must have a generator if, and only if"):
        run(Shuffled(*rows(), 6, seed=4), True)


# -- refusals -------------------------------------------------------------------------------------------


def test_an_optimizer_made_before_the_model_is_refused() -> None:
    model = network()
    optimizer = sgd(model)
    model = network()
    with pytest.raises(ValueError, match="optimizer must hold parameters of model, got none of its 4"):
        fit(model, optimizer, F.cross_entropy, pairs(), total_steps=1)


def test_a_part_of_the_model_may_be_trained_alone() -> None:
    model = network()
    before = copy.deepcopy(model)
    fit(model, torch.optim.SGD(model[4].parameters(), lr=0.1), F.cross_entropy, pairs(), total_steps=2)
    assert same(model[0], before[0])
    assert not same(model[4], before[4])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_weights_before_it(tmp_path: Path, bad: float) -> None:
    data = pairs()
    data[2] = (data[2][0] * bad, data[2][1])
    model, twin = network(), network()
    with pytest.raises(FloatingPointError, match=r"loss must be finite, got nan in step 3 \(lr 0\.1\)"):
        fit(
            model,
            sgd(model),
            F.cross_entropy,
            data,
            num_epochs=1,
            checkpoint=tmp_path / "run.pt",
            checkpoint_every=1,
        )
    fit(twin, sgd(twin), F.cross_entropy, pairs(), total_steps=2)
    assert same(model, twin)
    assert len(storage.load_state(tmp_path / "run.pt")["history"]["losses"]) == 2


def test_a_gradient_that_is_not_finite_is_refused_before_the_update() -> None:
    model = network()
    twin = copy.deepcopy(model)

    def loss_fn(predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions * 0).abs().sqrt().sum()  # the square root's slope at zero is infinite

    with pytest.raises(FloatingPointError, match="gradient norm must be finite, got nan in step 1"):
        fit(model, sgd(model), loss_fn, pairs(), total_steps=1, max_norm=1.0)
    assert same(model, twin)


def test_a_validation_that_is_not_finite_is_refused() -> None:
    model = network()
    with pytest.raises(FloatingPointError, match="validate must return a finite number, got nan at step 4"):
        fit(model, sgd(model), F.cross_entropy, pairs(), num_epochs=1, validate=lambda _: math.nan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of total_steps and num_epochs must be given"),
        ({"total_steps": 1, "num_epochs": 1}, "exactly one of total_steps and num_epochs must be given"),
        ({"total_steps": 0}, "total_steps must be >= 1, got 0"),
        ({"num_epochs": -1}, "num_epochs must be >= 1, got -1"),
        ({"total_steps": 1, "accumulate": 0}, "accumulate must be >= 1, got 0"),
        ({"total_steps": 1, "max_norm": 0.0}, "max_norm must be > 0, got 0.0"),
        ({"total_steps": 1, "max_norm": math.nan}, "max_norm must be > 0, got nan"),
        ({"total_steps": 1, "schedule": lambda _: -1.0}, r"schedule\(0\) must be >= 0, got -1.0"),
        ({"total_steps": 1, "schedule": lambda _: math.nan}, r"schedule\(0\) must be >= 0, got nan"),
        ({"total_steps": 1, "patience": 3}, "patience must not be given without validate"),
        ({"total_steps": 1, "validate_every": 3}, "validate_every must not be given without validate"),
        ({"total_steps": 1, "restore_best": True}, "restore_best must not be given without validate"),
        ({"total_steps": 1, "checkpoint_every": 3}, "checkpoint_every must not be given without checkpoint"),
        ({"total_steps": 1, "resume": True}, "resume must not be given without checkpoint"),
        ({"total_steps": 1, "validate": lambda _: 1.0, "patience": 0}, "patience must be >= 1, got 0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_changed(options: dict[str, Any], message: str) -> None:
    model = network()
    twin = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        fit(model, sgd(model), F.cross_entropy, pairs(), **options)
    assert same(model, twin)


def test_a_schedule_that_fails_leaves_the_lr_as_it_was() -> None:
    model = network()
    optimizer = sgd(model, 0.3)
    with pytest.raises(ValueError, match=r"schedule\(2\) must be >= 0"):
        fit(model, optimizer, F.cross_entropy, pairs(), total_steps=4, schedule=lambda t: [1, 0.5, -1][t])
    assert optimizer.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "batches must give a batch in every epoch, got none in epoch 1"),
        ([torch.zeros(3, 5)], TypeError, r"a batch must be a pair \(inputs, targets\), got Tensor"),
        ([(torch.zeros(3, 5),) * 3], TypeError, r"a batch must be a pair \(inputs, targets\), got tuple"),
        ([(torch.zeros(3, 5), [0, 1, 2])], TypeError, "targets of a batch must be a tensor, got list"),
        ([(torch.zeros(0, 5), torch.zeros(0).long())], ValueError, "inputs of a batch must have rows"),
        ([(torch.zeros(3, 5), torch.zeros(2).long())], ValueError, "must have as many rows, got 3 and 2"),
    ],
)
def test_bad_batches_are_refused(batches: Any, error: type[Exception], message: str) -> None:
    model = network()
    with pytest.raises(error, match=message):
        fit(model, sgd(model), F.cross_entropy, batches, num_epochs=1)


def test_batches_that_can_be_read_only_once_are_refused_in_the_second_epoch() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"got none in epoch 2 \(a generator can be read only once"):
        fit(model, sgd(model), F.cross_entropy, iter(pairs()), num_epochs=2)


def test_a_loss_without_reduction_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"loss_fn must return the mean, a 0-d tensor, got shape \(6,\)"):
        fit(
            model,
            sgd(model),
            lambda predictions, targets: F.cross_entropy(predictions, targets, reduction="none"),
            pairs(),
            total_steps=1,
        )


def test_a_hook_that_answers_something_else_is_refused() -> None:
    answers: Any = [lambda record: record.loss]
    model = network()
    with pytest.raises(TypeError, match="the answer of a hook must be bool or NoneType, got float"):
        fit(model, sgd(model), F.cross_entropy, pairs(), total_steps=1, hooks=answers)


def test_other_types_than_a_module_and_an_optimizer_are_refused() -> None:
    model = network()
    anything: Any = object()
    with pytest.raises(TypeError, match="model must be Module"):
        fit(anything, sgd(model), F.cross_entropy, pairs(), total_steps=1)
    with pytest.raises(TypeError, match="optimizer must be Optimizer"):
        fit(model, anything, F.cross_entropy, pairs(), total_steps=1)


def test_the_bar_is_silent_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    model = network()
    fit(model, sgd(model), F.cross_entropy, pairs(), total_steps=2, progress=True)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
