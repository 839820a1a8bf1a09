"""Figures that move in the page: drawn here for one setting, redrawn by a script for others.

The SVG below is complete without a script (Colab, print). In the book ``interactive.js`` finds the
element by ``data-nnopt-figure``, shows its sliders and computes the same numbers; a test compares them.
"""

import math

from nnopt.checks import require_fraction, require_integer, require_non_negative, require_positive

from ._figure import Figure
from ._moving import TEXT, WIDTH, moving_figure, slider
from ._noise_and_decay import noise_and_decay

__all__ = ["noise_and_decay", "rolling_point", "valley_and_roots", "will_it_hold"]


def rolling_point(
    *,
    curvature: float,
    lr: float,
    alt: str,
    start: float = 1.0,
    num_steps: int = 12,
    caption: str = "",
) -> Figure:
    r"""Draw gradient descent on the parabola ½λx², with a slider for the learning rate.

    .. math:: x_{t+1} = (1 - \eta\lambda)\, x_t

    Args:
        curvature: λ, above 0.
        lr: η of the drawing and first position of the slider, at least 0.
        alt: what the figure shows; at least four words.
        start: first position, not 0.
        num_steps: steps shown, at least 1.
        caption: one sentence that answers the figure's question.

    Returns:
        The figure; ``data-nnopt-values`` holds the positions x₀ to x_T that it shows.

    Raises:
        ValueError: an argument is out of range.
    """
    require_positive("curvature", curvature)
    require_non_negative("lr", lr)
    require_positive("abs(start)", abs(start))
    require_integer("num_steps", num_steps, minimum=1)
    positions = [float(start)]
    for _ in range(num_steps):
        positions.append((1 - lr * curvature) * positions[-1])
    edge = 2 / curvature
    reach = 1.6 * abs(start)

    def x(position: float) -> float:
        return WIDTH / 2 + position / reach * 290

    def y(position: float) -> float:
        return 210 - min((position / reach) ** 2, 1.2) * 190

    parabola = " ".join(f"{x(k / 20 * reach):.1f},{y(k / 20 * reach):.1f}" for k in range(-20, 21))
    path = " ".join(f"{x(p):.1f},{y(p):.1f}" for p in positions if abs(p) <= reach)
    dots = "".join(
        f'<circle class="nnopt-dot" cx="{x(p):.1f}" cy="{y(p):.1f}" r="4.5" fill="var(--nnopt-c1, #d55e00)"/>'
        for p in positions
        if abs(p) <= reach
    )
    top = 1.25 * edge
    mark = 40 + 560 * min(lr / top, 1)
    border = 40 + 560 * edge / top
    orange = 'stroke="var(--nnopt-c1, #d55e00)"'
    body = (
        f'<polyline points="{parabola}" fill="none" stroke="var(--nnopt-ink, currentColor)" opacity="0.6"/>'
        f'<polyline class="nnopt-path" points="{path}" fill="none" {orange}/>'
        f'<g class="nnopt-dots">{dots}</g>'
        f'<line x1="40" x2="600" y1="252" y2="252" stroke="var(--nnopt-ink, currentColor)" opacity="0.6"/>'
        f'<line x1="{border:.1f}" x2="600" y1="252" y2="252" {orange} stroke-width="8" opacity="0.4"/>'
        f'<line x1="{border:.1f}" x2="{border:.1f}" y1="240" y2="264" {orange}/>'
        f'<text x="{border:.1f}" y="284" text-anchor="middle" {TEXT}>edge 2/λ = {edge:.3g}</text>'
        f'<circle class="nnopt-rate" cx="{mark:.1f}" cy="252" r="6" fill="var(--nnopt-c0, #0072b2)"/>'
        f'<text class="nnopt-readout" x="40" y="284" {TEXT}>{_rolling_text(lr, curvature)}</text>'
    )
    settings = {"curvature": curvature, "start": start, "num_steps": num_steps, "reach": reach, "top": top}
    sliders = slider("lr", "learning rate η", 0.0, top, top / 250, lr)
    return moving_figure("rolling-point", settings, positions, sliders, body, alt, caption)


def _rolling_text(lr: float, curvature: float) -> str:
    factor = 1 - lr * curvature
    if abs(abs(factor) - 1) < 1e-9:
        fate = "stays" if factor > 0 else "jumps for ever"
    elif abs(factor) > 1:
        fate = "flies out"
    else:
        fate = "slides in" if factor >= 0 else "jumps in"
    return f"1 − ηλ = {factor:.2f}: {fate}".replace("-", "−")


def valley_and_roots(
    *,
    condition: float,
    lr: float,
    momentum: float,
    alt: str,
    num_steps: int = 60,
    caption: str = "",
) -> Figure:
    r"""Draw the heavy ball in a valley beside the roots that decide its fate, with sliders for both settings.

    .. math::
        b_{t+1} = \beta b_t + \lambda x_t, \qquad x_{t+1} = x_t - \eta b_{t+1}, \qquad
        r^2 - (1 + \beta - \eta\lambda)\, r + \beta = 0

    along the valley with λ = 1/``condition`` and across it with λ = 1.

    Args:
        condition: ratio of the curvatures across and along the valley, above 1.
        lr: η of the drawing and first position of its slider, in [0, 4].
        momentum: β of the drawing and first position of its slider, in [0, 1).
        alt: what the figure shows; at least four words.
        num_steps: steps of the path, at least 1.
        caption: one sentence that answers the figure's question.

    Returns:
        The figure; ``data-nnopt-values`` holds the T + 1 positions along the valley, those across it, and
        real and imaginary part of the two roots along and of the two across.

    Raises:
        ValueError: an argument is out of range.
    """
    require_positive("condition - 1", condition - 1)
    require_non_negative("lr", lr)
    if lr > 4:
        raise ValueError(f"lr must be <= 4, got {lr!r}")
    require_fraction("momentum", momentum, open_end=True)
    require_integer("num_steps", num_steps, minimum=1)
    curvatures, start = (1 / condition, 1.0), (-1.0, 0.25)
    paths = [_heavy_ball(lr, momentum, *pair, num_steps) for pair in zip(curvatures, start)]
    roots = [_roots(lr * curvature, momentum) for curvature in curvatures]
    rate = max(math.hypot(*root) for pair in roots for root in pair)
    axis = 'stroke="var(--nnopt-ink, currentColor)" fill="none" opacity="0.5"'
    levels = "".join(
        f'<ellipse cx="160" cy="130" rx="{140 * size:g}" ry="{140 * size / math.sqrt(condition):.1f}" {axis}/>'
        for size in (0.25, 0.5, 0.75, 1.0)
    )
    inside: list[str] = []
    for along, across in zip(*paths):
        if abs(along) > 1.1 or abs(across) > 0.85:
            break
        inside.append(f"{160 + 140 * along:.1f},{130 - 140 * across:.1f}")
    body = (
        f'{levels}<polyline class="nnopt-path" points="{" ".join(inside)}" fill="none" '
        f'stroke="var(--nnopt-c2, #009e73)" stroke-width="1.6"/>'
        f'<circle cx="160" cy="130" r="3.5" fill="var(--nnopt-ink, currentColor)"/>'
        f'<circle cx="480" cy="130" r="110" stroke-width="1.5" {axis}/>'
        f'<line x1="350" x2="610" y1="130" y2="130" {axis}/><line x1="480" x2="480" y1="8" y2="252" {axis}/>'
        f'<circle class="nnopt-floor" cx="480" cy="130" r="{110 * math.sqrt(momentum):.1f}" '
        f'stroke-dasharray="5 4" {axis}/>'
        f'<g class="nnopt-roots">{_root_marks(roots)}</g>'
        f'<text class="nnopt-readout" x="20" y="284" {TEXT}>{_valley_text(rate)}</text>'
        f'<text x="20" y="30" {TEXT}>roots: ● along, ■ across</text>'
    )
    values = [*paths[0], *paths[1], *(part for pair in roots for root in pair for part in root)]
    settings = {"curvatures": curvatures, "start": start, "num_steps": num_steps}
    sliders = slider("lr", "learning rate η", 0, 4, 0.02, lr) + slider(
        "momentum", "momentum β", 0, 0.99, 0.01, momentum
    )
    return moving_figure("valley-and-roots", settings, values, sliders, body, alt, caption)


def _heavy_ball(lr: float, momentum: float, curvature: float, start: float, num_steps: int) -> list[float]:
    positions, buffer = [start], 0.0
    for _ in range(num_steps):
        buffer = momentum * buffer + curvature * positions[-1]
        positions.append(positions[-1] - lr * buffer)
    return positions


def _roots(scaled: float, momentum: float) -> list[tuple[float, float]]:
    """Return real and imaginary part of both roots of r² − (1 + β − ηλ) r + β."""
    total = 1 + momentum - scaled
    discriminant = total * total - 4 * momentum
    half = math.sqrt(abs(discriminant)) / 2
    if discriminant < 0:
        return [(total / 2, half), (total / 2, -half)]
    return [(total / 2 + half, 0.0), (total / 2 - half, 0.0)]


def _root_marks(roots: list[list[tuple[float, float]]]) -> str:
    def place(root: tuple[float, float]) -> tuple[float, float]:
        return 480 + 110 * min(max(root[0], -1.3), 1.3), 130 - 110 * root[1]

    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="var(--nnopt-c0, #0072b2)"/>' for x, y in map(place, roots[0])
    )
    squares = "".join(
        f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="var(--nnopt-c1, #d55e00)"/>'
        for x, y in map(place, roots[1])
    )
    return dots + squares


def _valley_text(rate: float) -> str:
    if abs(rate - 1) < 1e-9:
        return "largest root 1.000: never arrives"
    if rate > 1:
        return f"largest root {rate:.3f}: flies out"
    return f"largest root {rate:.3f}: one hundredth after {math.ceil(math.log(0.01) / math.log(rate))} steps"


def will_it_hold(
    *,
    effect: float,
    num_seeds: int,
    margin: float,
    alt: str,
    caption: str = "",
) -> Figure:
    """Draw one hundred repetitions of a claim with sliders for effect, seeds and margin.

    Effects and margins are in standard deviations of the paired differences. Means and spreads of the
    repetitions are stratified draws, so that the picture shows the law and not one lucky sample; the
    chance beside it is ``hold_probability``.

    Args:
        effect: true mean difference.
        num_seeds: paired runs, 5 to 40.
        margin: what is claimed.
        alt: what the figure shows; at least four words.
        caption: one sentence that answers the figure's question.

    Returns:
        The figure; ``data-nnopt-values`` holds the chance that the claim holds again, and the count.

    Raises:
        ValueError: an argument is out of range.
    """
    from scipy import special

    from nnopt.measurement import hold_probability

    require_integer("num_seeds", num_seeds, minimum=5)
    if num_seeds > 40:
        raise ValueError(f"num_seeds must be <= 40, got {num_seeds}")
    require_non_negative("effect", effect)
    require_non_negative("margin", margin)
    distance = (effect - margin) * math.sqrt(num_seeds)
    chance = hold_probability(distance, num_seeds)
    critical = [round(float(special.stdtrit(n - 1, 0.975)), 6) for n in range(2, 41)]
    drawn, count = _repetitions(effect, num_seeds, margin, critical[num_seeds - 2])
    body = drawn + f'<text class="nnopt-readout" x="40" y="284" {TEXT}>{_hold_text(count, chance)}</text>'
    sliders = (
        slider("effect", "true effect, in standard deviations", 0, 4, 0.05, effect)
        + slider("num_seeds", "seeds", 5, 40, 1, num_seeds)
        + slider("margin", "margin, in standard deviations", 0, 3, 0.05, margin)
    )
    return moving_figure(
        "will-it-hold", {"critical": critical, "pairs": _replications()}, [chance, count], sliders, body, alt, caption
    )


def _replications() -> list[tuple[float, float]]:
    """Return 100 pairs of standard normals, stratified: one for the mean, one for the spread."""
    from statistics import NormalDist

    import numpy as np

    quantiles = [round(NormalDist().inv_cdf((2 * k + 1) / 200), 4) for k in range(100)]
    order = np.random.default_rng(2).permutation(100)
    return [(quantiles[k], quantiles[int(order[k])]) for k in range(100)]


def _hold_text(count: int, chance: float) -> str:
    return f"{count} of 100 re-runs hold here; by the law {100 * chance:.1f} %"


def _repetitions(effect: float, num_seeds: int, margin: float, critical: float) -> tuple[str, int]:
    """Draw the intervals of 100 re-runs, and count those that clear the margin."""

    def x(value: float) -> float:
        return 40 + 560 * min(max((value + 1.5) / 7, 0), 1)

    degrees = num_seeds - 1
    count, rows = 0, []
    for place, (first, second) in enumerate(_replications()):
        mean = effect + first / math.sqrt(num_seeds)
        # Wilson and Hilferty: the cube root of a chi-squared variable is nearly normal
        spread = max(1 - 2 / (9 * degrees) + second * math.sqrt(2 / (9 * degrees)), 0.0) ** 1.5
        half = critical * spread / math.sqrt(num_seeds)
        held = mean - half > margin
        count += held
        color = "var(--nnopt-c0, #0072b2)" if held else "var(--nnopt-c1, #d55e00)"
        y = 10 + 2.4 * place
        rows.append(
            f'<line x1="{x(mean - half):.1f}" x2="{x(mean + half):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{color}" stroke-width="1.2"/>'
        )
    lines = (
        f'<line class="nnopt-zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="254" '
        f'stroke="var(--nnopt-ink, currentColor)"/>'
        f'<line class="nnopt-limit" x1="{x(margin):.1f}" x2="{x(margin):.1f}" y1="4" y2="254" '
        f'stroke="var(--nnopt-ink, currentColor)" stroke-dasharray="5 4" stroke-width="2"/>'
    )
    return f'<g class="nnopt-rows">{"".join(rows)}</g>{lines}', count
