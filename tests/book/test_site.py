"""The built site, opened from disk in Chromium without a network: what a reader on a plane would see."""

import json
import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import pytest
from chapters import ROOT, chapters
from playwright.sync_api import Browser, Page

from nnopt import plots
from nnopt.plots import interactive

from .browser import CONTRAST, OVERFLOW, SILENT, SITE, Visit, browser, current_site, offline_page, visit

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def visits(chromium: Browser) -> dict[str, Visit]:
    """Visit every page of the site once."""
    pages = current_site()
    with offline_page(chromium, reduced_motion="reduce") as (page, events):
        return {path.relative_to(SITE).as_posix(): visit(page, events, path) for path in pages}


def faults(visits: dict[str, Visit], of: Callable[[Visit], object]) -> dict[str, object]:
    return {name: found for name, seen in visits.items() if (found := of(seen))}


def test_every_page_of_the_book_is_there(visits: dict[str, Visit]) -> None:
    assert {f"{chapter.docname}.html" for chapter in chapters()} <= set(visits)
    assert {"book/intro.html", "book/claims.html", "book/glossary.html", "search.html"} <= set(visits)


def test_the_site_opens_at_its_first_page(chromium: Browser) -> None:
    current_site()
    with offline_page(chromium) as (page, _):
        page.goto((SITE / "index.html").as_uri())
        page.wait_for_url("**/book/intro.html")
        assert page.locator("article h1").count() == 1


def test_no_request_fails_and_nothing_is_asked_of_a_network_or_written_to_the_console(
    visits: dict[str, Visit],
) -> None:
    assert faults(visits, lambda seen: seen.events) == {}


def test_mathematics_is_rendered_without_errors(visits: dict[str, Visit]) -> None:
    assert sum(seen.formulas for seen in visits.values()) > 10
    assert faults(visits, lambda seen: seen.formulas and not seen.rendered) == {}
    assert faults(visits, lambda seen: seen.math_errors) == {}


def test_text_is_legible_in_light_and_in_dark_mode(visits: dict[str, Visit]) -> None:
    assert faults(visits, lambda seen: seen.pale_light) == {}
    assert faults(visits, lambda seen: seen.pale_dark) == {}


def test_no_page_scrolls_sideways_on_a_phone(visits: dict[str, Visit]) -> None:
    assert faults(visits, lambda seen: seen.overflow) == {}


def test_every_picture_has_an_alternative_text(visits: dict[str, Visit]) -> None:
    assert faults(visits, lambda seen: seen.silent) == {}


def test_the_search_finds_a_word_of_the_book(chromium: Browser) -> None:
    current_site()
    with offline_page(chromium) as (page, events):
        page.goto((SITE / "search.html").as_uri() + "?q=curvature")
        # results are added one by one
        glossary = page.locator("#search-results li", has_text="Glossary").first
        glossary.wait_for(timeout=10_000)
        assert glossary.is_visible()
        assert events == []


def test_every_chapter_can_be_downloaded_and_there_is_no_colab_button_without_a_repository(
    chromium: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    current_site()
    with offline_page(chromium) as (page, _):
        for chapter in chapters():
            page.goto((SITE / f"{chapter.docname}.html").as_uri())
            address = page.locator("a.btn-download-notebook-button").get_attribute("href")
            assert address is not None
            notebook = (SITE / chapter.docname).parent / address
            assert json.loads(notebook.resolve().read_text())["cells"]
            assert page.locator("a[href*='colab']").count() == 0


def test_the_header_box_says_what_the_run_said(chromium: Browser) -> None:
    current_site()
    with offline_page(chromium) as (page, _):
        for chapter in chapters():
            page.goto((SITE / f"{chapter.docname}.html").as_uri())
            run = json.loads((ROOT / "_build/runs" / f"{chapter.docname}.json").read_text())
            words = page.locator(".nnopt-run").inner_text()
            loading = f"{run['loading']:.0f} s of loading" if run["loading"] else ""
            for part in ("torch " + run["versions"]["torch"], run["commit"], run["date"], "CPU", loading):
                assert part in words, chapter.name


def test_every_slider_moves_its_figure(chromium: Browser, visits: dict[str, Visit]) -> None:
    pages = [name for name, seen in visits.items() if seen.sliders]
    moving = {
        f"{c.docname}.html" for c in chapters() if any(f"plots.{name}(" in c.text for name in interactive.__all__)
    }
    assert set(pages) == moving
    with offline_page(chromium) as (page, events):
        for name in pages:
            page.goto((SITE / name).as_uri())
            for figure in page.locator("[data-nnopt-figure]").all():
                for slider in figure.locator("input[type=range]").all():
                    before = figure.locator("svg").inner_html()
                    low, high = slider.get_attribute("min"), slider.get_attribute("max")
                    far = high if slider.input_value() != high else low
                    slider.evaluate(MOVE, far)
                    assert figure.locator("svg").inner_html() != before, (name, slider.get_attribute("name"))
        assert events == []


def test_the_checks_of_a_page_see_planted_faults(chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "planted.html"
    path.write_text(
        "<html><body style='background: #fff'><main><article><p style='color: #bbb'>pale words</p>"
        "<p style='color: #000'>dark words</p><div style='width: 900px'>wide</div>"
        "<img src='data:,'><img src='missing.png' alt='a picture'>"
        "<script>console.error('planted')</script></article></main></body></html>"
    )
    with offline_page(chromium, viewport={"width": 390, "height": 844}) as (page, events):
        page.goto(path.as_uri())
        (pale,) = page.evaluate(CONTRAST, 4.5)
        assert "pale words" in pale
        assert "scrolls to" in page.evaluate(OVERFLOW)[0]
        assert len(page.evaluate(SILENT)) == 1
        assert any("missing.png" in event for event in events)
        assert any("planted" in event for event in events)
        page.evaluate("() => { fetch('https://example.org/x').catch(() => 0); }")
        page.wait_for_timeout(100)
        assert any(event.startswith("asked: https://example.org") for event in events)


# the interactive figures on a page of their own: the script must compute what Python computes

MOVE = "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }"


def bare_page(folder: Path, figure: plots.Figure) -> str:
    """Write a page with one figure and the book's scripts; return its address."""
    scripts = "".join(
        f'<script src="{(ROOT / "book/_static" / name).as_uri()}"></script>'
        for name in ("figures.js", "interactive.js")
    )
    path = folder / "figure.html"
    head = f'<html data-theme="light"><head><meta charset="utf-8">{scripts}</head>'
    path.write_text(f"{head}<body>{html_of(figure)}</body></html>", encoding="utf-8")
    return path.as_uri()


def html_of(figure: plots.Figure) -> str:
    return figure._repr_mimebundle_()["text/html"]


def values_of(figure: plots.Figure) -> list[float]:
    text = html_of(figure).split('data-nnopt-values="')[1].split('"')[0]
    return list(json.loads(unescape(text)))


def points(text: str) -> list[float]:
    """Return the coordinates of a polyline, however its last digit was rounded."""
    return [float(number) for pair in text.split('"')[0].split() for number in pair.split(",")]


def shown(page: Page) -> list[float]:
    return list(json.loads(page.locator("[data-nnopt-figure]").get_attribute("data-nnopt-values") or ""))


@pytest.mark.parametrize("lr", [0.0, 0.1, 0.4, 0.5, 1.0, 1.1])
def test_the_rolling_point_of_the_script_is_that_of_python(chromium: Browser, tmp_path: Path, lr: float) -> None:
    def figure(lr: float) -> plots.Figure:
        return plots.rolling_point(curvature=2.0, lr=lr, alt="a point rolls down a parabola")

    with offline_page(chromium) as (page, events):
        page.goto(bare_page(tmp_path, figure(0.3)))
        page.locator("input[name=lr]").evaluate(MOVE, str(lr))
        expected = figure(lr)
        assert shown(page) == pytest.approx(values_of(expected), rel=1e-9, abs=1e-12)
        # and so do the sentence and the drawing
        assert (page.locator(".nnopt-readout").text_content() or "?") in html_of(expected)
        drawn = page.locator(".nnopt-path").get_attribute("points") or ""
        assert points(drawn) == pytest.approx(points(html_of(expected).split('nnopt-path" points="')[1]), abs=0.11)
        assert events == []


@pytest.mark.parametrize(
    ("lr", "momentum"), [(0.0, 0.0), (1.0, 0.5), (1.5, 0.42), (1.9, 0.0), (2.0, 0.0), (3.9, 0.9), (4.0, 0.99)]
)
def test_the_valley_and_the_roots_of_the_script_are_those_of_python(
    chromium: Browser, tmp_path: Path, lr: float, momentum: float
) -> None:
    def figure(lr: float, momentum: float) -> plots.Figure:
        return plots.valley_and_roots(condition=20.0, lr=lr, momentum=momentum, alt="a path and four roots")

    with offline_page(chromium) as (page, events):
        page.goto(bare_page(tmp_path, figure(1.2, 0.3)))
        for name, value in (("lr", lr), ("momentum", momentum)):
            page.locator(f"input[name={name}]").evaluate(MOVE, str(value))
        expected = figure(lr, momentum)
        assert shown(page) == pytest.approx(values_of(expected), rel=1e-9, abs=1e-12)
        assert (page.locator(".nnopt-readout").text_content() or "?") in html_of(expected)
        drawn = page.locator(".nnopt-path").get_attribute("points") or ""
        assert points(drawn) == pytest.approx(points(html_of(expected).split('nnopt-path" points="')[1]), abs=0.11)
        marks = html_of(expected).split('class="nnopt-roots">')[1].split("</g>")[0]
        for mark, ends in (("circle", ("cx", "cy")), ("rect", ("x", "y"))):
            found = re.findall(rf'<{mark} {ends[0]}="(\S+)" {ends[1]}="(\S+)"', marks)
            placed = [[m.get_attribute(end) or "" for end in ends] for m in page.locator(f".nnopt-roots {mark}").all()]
            assert len(placed) == len(found) == 2
            for here, there in zip(placed, found, strict=True):
                assert [float(n) for n in here] == pytest.approx([float(n) for n in there], abs=0.11)
        assert events == []


@pytest.mark.parametrize(("lr", "decay"), [(0.0, 0.0), (0.3, 0.5), (1.0, 1.0), (1.9, 0.02)])
def test_the_decay_of_the_script_is_that_of_python(chromium: Browser, tmp_path: Path, lr: float, decay: float) -> None:
    def figure(lr: float, decay: float) -> plots.Figure:
        return plots.noise_and_decay(lr=lr, decay=decay, alt="expected losses under two rates")

    with offline_page(chromium) as (page, events):
        page.goto(bare_page(tmp_path, figure(0.8, 0.2)))
        for name, value in (("lr", lr), ("decay", decay)):
            page.locator(f"input[name={name}]").evaluate(MOVE, str(value))
        expected = figure(lr, decay)
        assert shown(page) == pytest.approx(values_of(expected), rel=1e-9, abs=1e-12)
        assert (page.locator(".nnopt-readout").text_content() or "?") in html_of(expected)
        for name in ("rates", "path", "flat"):
            drawn = page.locator(f".nnopt-{name}").get_attribute("points") or ""
            there = html_of(expected).split(f'nnopt-{name}" points="')[1]
            assert points(drawn) == pytest.approx(points(there), abs=0.11)
        assert events == []


@pytest.mark.parametrize(
    ("effect", "num_seeds", "margin"), [(1.0, 8, 0.5), (0.0, 5, 0.0), (3.5, 40, 1.0), (2.0, 16, 1.9)]
)
def test_the_hold_probability_of_the_script_is_that_of_python(
    chromium: Browser, tmp_path: Path, effect: float, num_seeds: int, margin: float
) -> None:
    def figure(effect: float, num_seeds: int, margin: float) -> plots.Figure:
        return plots.will_it_hold(effect=effect, num_seeds=num_seeds, margin=margin, alt="one hundred runs of a claim")

    with offline_page(chromium) as (page, events):
        page.goto(bare_page(tmp_path, figure(1.5, 10, 0.6)))
        for name, value in (("effect", effect), ("num_seeds", num_seeds), ("margin", margin)):
            page.locator(f"input[name={name}]").evaluate(MOVE, str(value))
        expected = figure(effect, num_seeds, margin)
        chance, count = values_of(expected)
        assert shown(page)[0] == pytest.approx(chance, abs=2e-6)
        assert shown(page)[1] == count
        assert (page.locator(".nnopt-readout").text_content() or "?") in html_of(expected)
        assert events == []


def test_without_a_script_the_figure_is_whole_and_its_sliders_are_hidden(chromium: Browser, tmp_path: Path) -> None:
    figure = plots.rolling_point(curvature=2.0, lr=0.4, alt="a point rolls down a parabola")
    with offline_page(chromium, java_script_enabled=False) as (page, _):
        page.goto(bare_page(tmp_path, figure))
        assert page.locator("circle.nnopt-dot").count() == 13
        assert not page.locator("input[name=lr]").is_visible()
