"""Moving figures: complete without a script, with the numbers that the script must repeat."""

import html
import json
import re
from typing import Any

import pytest
import torch

from nnopt import plots
from nnopt.measurement import hold_probability
from nnopt.optimizers import (
    constant,
    expected_loss,
    gradient_step,
    momentum_rate,
    momentum_step,
    warmup_stable_decay,
)
from nnopt.plots import Figure

ALT = "a point rolling down a parabola"


def data(figure: Figure, name: str) -> Any:
    match = re.search(rf'data-nnopt-{name}="([^"]*)"', figure.svg)
    assert match
    return json.loads(html.unescape(match[1]))


@pytest.mark.parametrize("lr", [0.0, 0.1, 0.45, 0.5, 0.6])
def test_the_rolling_point_is_gradient_descent(lr: float) -> None:
    figure = plots.rolling_point(curvature=4.0, lr=lr, start=-1.5, num_steps=9, alt=ALT)
    point = torch.tensor(-1.5, dtype=torch.float64)
    expected = [float(point)]
    for _ in range(9):
        point = gradient_step(point, 4.0 * point, lr=lr)
        expected.append(float(point))
    assert data(figure, "values") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("lr", "fate"), [(0.1, "slides in"), (0.4, "jumps in"), (0.5, "jumps for ever"), (0.6, "flies out"), (0.0, "stays")]
)
def test_the_readout_names_the_fate(lr: float, fate: str) -> None:
    assert fate in plots.rolling_point(curvature=4.0, lr=lr, alt=ALT).svg


VALLEY = [(0.0, 0.0), (0.4, 0.3), (1.5, 0.42), (2.0, 0.0), (3.0, 0.1), (3.9, 0.97)]


@pytest.mark.parametrize(("lr", "momentum"), VALLEY)
def test_the_path_in_the_valley_is_the_heavy_ball(lr: float, momentum: float) -> None:
    figure = plots.valley_and_roots(condition=16.0, lr=lr, momentum=momentum, num_steps=30, alt=ALT)
    curvatures = torch.tensor([1 / 16, 1.0], dtype=torch.float64)
    point, buffer = torch.tensor([-1.0, 0.25], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    path = [point]
    for _ in range(30):
        point, buffer = momentum_step(point, curvatures * point, buffer, lr=lr, momentum=momentum)
        path.append(point)
    expected = torch.stack(path).T.flatten().tolist()
    assert data(figure, "values")[:62] == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("lr", "momentum"), VALLEY)
def test_the_roots_beside_the_valley_have_the_modulus_of_the_rate(lr: float, momentum: float) -> None:
    figure = plots.valley_and_roots(condition=16.0, lr=lr, momentum=momentum, num_steps=1, alt=ALT)
    parts = torch.tensor(data(figure, "values")[4:], dtype=torch.float64).view(2, 2, 2)
    largest = torch.view_as_complex(parts).abs().amax(dim=1)
    curvatures = torch.tensor([1 / 16, 1.0], dtype=torch.float64)
    torch.testing.assert_close(largest, momentum_rate(curvatures, lr=lr, momentum=momentum), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("lr", "momentum", "fate"),
    [(1.44, 0.36, "one hundredth after 10 steps"), (2.0, 0.0, "never arrives"), (2.1, 0.0, "flies out")],
)
def test_the_readout_of_the_valley_names_the_fate(lr: float, momentum: float, fate: str) -> None:
    assert fate in plots.valley_and_roots(condition=9.0, lr=lr, momentum=momentum, alt=ALT).svg


def test_a_path_ends_where_it_leaves_the_drawing() -> None:
    svg = plots.valley_and_roots(condition=9.0, lr=3.0, momentum=0.0, alt=ALT).svg
    drawn = svg.split('nnopt-path" points="')[1].split('"')[0].split()
    assert len(drawn) == 2  # -0.5 is inside, 1.0 is not


def test_will_it_hold_counts_what_the_law_says() -> None:
    for effect, num_seeds, margin in [(2.0, 8, 0.0), (1.5, 8, 0.5), (1.0, 20, 0.5), (1.3, 5, 0.05)]:
        figure = plots.will_it_hold(effect=effect, num_seeds=num_seeds, margin=margin, alt=ALT)
        chance, count = data(figure, "values")
        assert chance == hold_probability((effect - margin) * num_seeds**0.5, num_seeds)
        assert count / 100 == pytest.approx(chance, abs=0.06)


@pytest.mark.parametrize(("lr", "decay"), [(0.0, 0.5), (0.5, 0.25), (1.9, 1.0)])
def test_the_losses_under_a_decay_are_those_of_the_theory(lr: float, decay: float) -> None:
    figure = plots.noise_and_decay(lr=lr, decay=decay, num_steps=40, alt=ALT)
    facts = data(figure, "settings")
    curvatures, noise = (torch.tensor(facts[name], dtype=torch.float64) for name in ("curvatures", "noise"))
    schedules = warmup_stable_decay(total_steps=40, decay_steps=int(40 * decay)), constant()
    expected = [
        float(loss)
        for schedule in schedules
        for loss in expected_loss(
            curvatures, noise, start=torch.ones_like(noise), lr=lr, schedule=schedule, total_steps=40
        )
    ]
    assert data(figure, "values") == pytest.approx(expected, rel=1e-12)
    assert f"at the end {expected[40]:.4f}, without decay {expected[81]:.4f}" in figure.svg


def test_no_decay_is_the_constant_rate() -> None:
    values = data(plots.noise_and_decay(lr=0.7, decay=0.0, num_steps=30, alt=ALT), "values")
    assert values[:31] == values[31:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"lr": 2.0}, "lr must be <= 1.9"), ({"decay": 1.1}, "decay must be in"), ({"num_steps": 1}, "num_steps must be")],
)
def test_a_decay_that_cannot_be_drawn_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.noise_and_decay(**{"lr": 0.5, "decay": 0.5, "alt": ALT, **settings})


def test_without_a_script_the_controls_stay_hidden_and_the_drawing_is_there() -> None:
    for figure in (
        plots.rolling_point(curvature=1, lr=0.3, alt=ALT),
        plots.valley_and_roots(condition=9, lr=1, momentum=0.5, alt=ALT),
        plots.will_it_hold(effect=1, num_seeds=8, margin=0, alt=ALT),
    ):
        assert '<div class="nnopt-controls" hidden>' in figure.svg
        assert f'aria-label="{ALT}"' in figure.svg
        assert figure == figure
        assert re.findall(r'type="range"', figure.svg)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="curvature must be > 0, got 0"):
        plots.rolling_point(curvature=0, lr=0.1, alt=ALT)
    with pytest.raises(ValueError, match="lr must be >= 0"):
        plots.rolling_point(curvature=1, lr=float("nan"), alt=ALT)
    with pytest.raises(ValueError, match="num_steps must be >= 1, got 0"):
        plots.rolling_point(curvature=1, lr=0.1, num_steps=0, alt=ALT)
    with pytest.raises(ValueError, match="alt must describe"):
        plots.rolling_point(curvature=1, lr=0.1, alt="x")
    with pytest.raises(ValueError, match="num_seeds must be <= 40, got 41"):
        plots.will_it_hold(effect=1, num_seeds=41, margin=0, alt=ALT)
    with pytest.raises(ValueError, match="margin must be >= 0"):
        plots.will_it_hold(effect=1, num_seeds=8, margin=-1, alt=ALT)
    with pytest.raises(ValueError, match="condition - 1 must be > 0, got 0"):
        plots.valley_and_roots(condition=1, lr=1, momentum=0.5, alt=ALT)
    with pytest.raises(ValueError, match=r"lr must be <= 4, got 4.1"):
        plots.valley_and_roots(condition=9, lr=4.1, momentum=0.5, alt=ALT)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1"):
        plots.valley_and_roots(condition=9, lr=1, momentum=1, alt=ALT)
    with pytest.raises(ValueError, match="num_steps must be >= 1, got 0"):
        plots.valley_and_roots(condition=9, lr=1, momentum=0.5, num_steps=0, alt=ALT)
