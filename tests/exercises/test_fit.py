"""The checker accepts a complete state and names each piece that is forgotten, or that is captured by reference."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from nnopt import exercises
from nnopt.exercises import TrainingRun


def capture(run: TrainingRun) -> dict[str, Any]:
    return {
        "model": copy.deepcopy(run.model.state_dict()),
        "optimizer": copy.deepcopy(run.optimizer.state_dict()),
        "order": run.order.get_state(),
        "noise": run.noise.get_state(),
        "step": run.step,
    }


def restore(run: TrainingRun, state: dict[str, Any]) -> None:
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.order.set_state(state["order"])
    run.noise.set_state(state["noise"])
    run.step = state["step"]


def without(*forgotten: str) -> Callable[[TrainingRun, dict[str, Any]], None]:
    def restore_rest(run: TrainingRun, state: dict[str, Any]) -> None:
        restore(run, {**capture(run), **{name: state[name] for name in state if name not in forgotten}})

    return restore_rest


def parameters_only(run: TrainingRun, state: dict[str, Any]) -> None:
    own = dict(run.model.named_parameters())
    run.model.load_state_dict({**run.model.state_dict(), **{n: state["model"][n] for n in own}})
    without("model")(run, state)


def test_a_complete_state_passes() -> None:
    verdict = exercises.check_resume(capture, restore)
    assert repr(verdict) == "✓ Your run was killed 6 times and no bit differs."


@pytest.mark.parametrize(
    ("forgotten", "told"),
    [
        ("model", "other weights or buffers than when it was captured."),
        ("optimizer", "the optimizer does not remember its moments"),
        ("order", "it sees other batches"),
        ("noise", "it draws other noise"),
        ("step", "the step, and with it the learning rate, is another"),
    ],
)
def test_each_forgotten_piece_is_named(forgotten: str, told: str) -> None:
    verdict = exercises.check_resume(capture, without(forgotten))
    assert not verdict
    assert told in verdict.sentence


def test_forgotten_buffers_are_seen() -> None:
    verdict = exercises.check_resume(capture, parameters_only)
    assert not verdict
    assert "other weights or buffers" in verdict.sentence


def test_a_state_that_still_moves_is_seen() -> None:
    verdict = exercises.check_resume(lambda run: {**capture(run), "model": run.model.state_dict()}, restore)
    assert not verdict
    assert "they are those of a later step" in verdict.sentence
