"""Figures: deterministic, accessible, in the colors of the page, and honest about their input."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nnopt import plots
from nnopt.plots import Figure

RUNS = np.random.default_rng(0).normal(size=(6, 20)).cumsum(axis=1)
ALT = "six random walks over twenty steps"

FIGURES: dict[str, Callable[[], Figure]] = {
    "curves": lambda: plots.curves(
        range(20), {"walks": RUNS, "one": RUNS[0]}, alt=ALT, xlabel="step", ylabel="height",
        vertical={"edge": 5}, horizontal={"zero": 0}, caption="They walk.", markers=True, ylim=(-9, 9),
    ),
    "seeds": lambda: plots.curves(
        range(1, 21), {"walks": np.exp(RUNS)}, alt=ALT, xlabel="step", ylabel="height", spread="seeds",
        xscale="log", yscale="log",
    ),
    "intervals": lambda: plots.intervals({"a": (1, 0.5, 2), "b": (2, 1, 3)}, alt=ALT, xlabel="x", margin=0.3, null=0),
    "paired": lambda: plots.paired({"a": RUNS[0], "b": RUNS[1]}, alt=ALT, ylabel="y"),
    "bars": lambda: plots.bars({"a": {"p": 1, "q": 2}, "b": {"p": 0, "q": 3}}, alt=ALT, xlabel="x", share=True),
    "histograms": lambda: plots.histograms({"a": RUNS, "b": RUNS + 1}, alt=ALT, xlabel="x", vertical={"m": 0}),
    "trajectories": lambda: plots.trajectories(
        lambda x, y: x**2 + 9 * y**2, {"p": RUNS[:, :2], "q": RUNS[:, 2:4]}, alt=ALT, xlim=(-2, 2), ylim=(-1, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_at_every_run(name: str) -> None:
    assert FIGURES[name]().svg == FIGURES[name]().svg


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_valid_svg_with_alternative_text(name: str) -> None:
    root = ET.fromstring(FIGURES[name]().svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == ALT


@pytest.mark.parametrize("name", FIGURES)
def test_every_color_belongs_to_the_page(name: str) -> None:
    svg = re.sub(r"var\([^)]*\)", "", FIGURES[name]().svg)
    assert re.findall(r"(?:fill|stroke|color): *#\w+", svg) == []
    assert "#fff" not in svg
    # a text without a color of its own would be black in dark mode
    for text in re.findall(r"<text [^>]*>", FIGURES[name]().svg):
        assert "var(--nnopt" in text


@pytest.mark.parametrize("name", FIGURES)
def test_no_style_or_plain_id_leaks_into_the_page(name: str) -> None:
    svg = FIGURES[name]().svg
    assert "<style" not in svg
    assert not re.search(r'id="(figure|axes|patch|line2d|text)_', svg)


def test_ids_of_two_figures_of_one_page_differ() -> None:
    first = FIGURES["curves"]().svg
    second = plots.curves(range(20), {"walks": RUNS}, alt=ALT + " again", xlabel="step", ylabel="h").svg
    assert not set(re.findall(r'id="([^"]+)"', first)) & set(re.findall(r'id="([^"]+)"', second))


def test_the_readers_own_settings_change_nothing() -> None:
    import matplotlib

    before = FIGURES["curves"]().svg
    with matplotlib.rc_context({"axes.facecolor": "red", "lines.linewidth": 9, "font.size": 30}):
        assert FIGURES["curves"]().svg == before
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_the_band_is_the_t_interval_of_the_mean() -> None:
    from scipy import stats

    from nnopt.plots._prepare import mean_and_band

    mean, low, high = mean_and_band(RUNS)
    for point in (3, 19):
        reference = stats.ttest_1samp(RUNS[:, point], 0).confidence_interval(0.95)
        assert (low[point], high[point]) == pytest.approx((reference.low, reference.high))
        assert mean[point] == pytest.approx(RUNS[:, point].mean())


def test_tensors_and_lists_draw_the_same() -> None:
    arguments: dict[str, Any] = {"alt": ALT, "xlabel": "x", "ylabel": "y"}
    tensor = torch.tensor(RUNS, requires_grad=True)
    assert (
        plots.curves(range(20), {"a": tensor}, **arguments).svg
        == plots.curves(list(range(20)), {"a": RUNS.tolist()}, **arguments).svg
    )


def test_a_notebook_gets_html_with_the_caption_and_text_with_the_description() -> None:
    bundle = FIGURES["curves"]()._repr_mimebundle_()
    assert "<figcaption>They walk.</figcaption>" in bundle["text/html"]
    assert bundle["text/plain"] == f"Figure: {ALT}"


AXES: dict[str, Any] = {"alt": ALT, "xlabel": "x", "ylabel": "y"}
REFUSALS: list[tuple[Callable[[], Figure], str]] = [
    (lambda: plots.curves([1], {"a": [1]}, alt="a plot", xlabel="x", ylabel="y"), "alt must describe"),
    (lambda: plots.curves([1], {}, **AXES), "series must not be empty"),
    (lambda: plots.curves([1, 2], {"a": [1]}, **AXES), r"series 'a' must have shape \(\.\.\., 2\), got \(1,\)"),
    (lambda: plots.curves([1], {"a": [float("nan")]}, **AXES), "series 'a' must not hold NaN"),
    (lambda: plots.curves([1], {"a": [1]}, spread="sd", **AXES), "spread must be one of"),  # type: ignore[arg-type]
    (lambda: plots.intervals({"a": (1, 2, 3)}, alt=ALT, xlabel="x"), "low <= value <= high"),
    (lambda: plots.paired({"a": [1, 2], "b": [1]}, alt=ALT, ylabel="y"), "one value per seed"),
    (lambda: plots.bars({"a": {"p": 1}, "b": {"q": 1}}, alt=ALT, xlabel="x"), "must have the parts"),
    (lambda: plots.bars({"a": {"p": -1}}, alt=ALT, xlabel="x"), "must have values >= 0"),
    (lambda: plots.histograms({"a": []}, alt=ALT, xlabel="x"), "sample 'a' must not be empty"),
    (lambda: plots.histograms({"a": [1]}, alt=ALT, xlabel="x", num_bins=1), "num_bins must be >= 2"),
    (
        lambda: plots.trajectories(lambda x, y: x, {"p": [[1, 2, 3]]}, alt=ALT, xlim=(0, 1), ylim=(0, 1)),
        r"path 'p' must have shape \(T, 2\)",
    ),
]


@pytest.mark.parametrize(("draw", "message"), REFUSALS)
def test_bad_input_is_refused(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def tick_labels(figure: Figure) -> list[str]:
    return list(re.findall(r"<text [^>]*>([^<]*)</text>", figure.svg))


def test_few_marked_places_of_a_logarithmic_axis_are_its_ticks() -> None:
    figure = plots.curves(
        [0.05, 0.3, 4.0], {"line": [1, 2, 3]}, alt=ALT, xlabel="rate", ylabel="y", xscale="log", markers=True
    )
    assert {"0.05", "0.3", "4"} <= set(tick_labels(figure))
    assert "0.1" not in tick_labels(figure)


def test_a_logarithmic_axis_of_few_decades_is_labeled_in_plain_numbers() -> None:
    short = plots.curves(range(3), {"line": [0.1, 0.4, 1.1]}, alt=ALT, xlabel="x", ylabel="loss", yscale="log")
    assert {"0.1", "0.2", "0.5", "1"} <= set(tick_labels(short))
    long = plots.curves(range(3), {"line": [1e-9, 1e-4, 10]}, alt=ALT, xlabel="x", ylabel="loss", yscale="log")
    assert "0.1" not in tick_labels(long)


def positions(figure: Figure) -> dict[str, tuple[float, float]]:
    """Return the place of every text of a figure, x to the right and y down."""
    found = {}
    for attributes, text in re.findall(r"<text ([^>]*)>([^<]*)</text>", figure.svg):
        place = re.search(r'transform="translate\(([\d.]+) ([\d.]+)\)', attributes) or re.search(
            r'x="([\d.]+)" y="([\d.]+)"', attributes
        )
        assert place
        found[text] = (float(place[1]), float(place[2]))
    return found


def test_the_legend_stands_above_the_axes_and_is_read_by_rows() -> None:
    series = {f"a name of some length, {number}": [float(number)] * 3 for number in range(5)}
    places = positions(plots.curves(range(3), series, alt=ALT, xlabel="x", ylabel="y"))
    lefts, tops = zip(*(places[name] for name in series), strict=True)
    assert tops[0] == tops[1] < tops[2] == tops[3] < tops[4]
    assert lefts[0] == lefts[2] == lefts[4]
    assert max(tops) < places["4.0"][1]


def test_labels_of_close_lines_stand_beside_the_axes_and_apart() -> None:
    lines = {"one": 0.5, "other": 0.505, "far": 0.1}
    figure = plots.curves(range(3), {"line": [0, 0.5, 1]}, alt=ALT, xlabel="x", ylabel="y", horizontal=lines)
    places = positions(figure)
    right = places["2.00"][0]
    assert all(places[label][0] > right for label in lines)
    assert places["far"][1] > places["one"][1] > places["other"][1] + 10
