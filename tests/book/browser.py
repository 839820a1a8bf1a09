"""Opening the built site from disk in Chromium, with the network cut, and noting everything that goes wrong."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from chapters import ROOT
from conditions import site_key
from playwright.sync_api import Browser, Page, sync_playwright

SITE = ROOT / "_build" / "html"
REQUIRED = os.environ.get("NNOPT_REQUIRE_BROWSER") == "1"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip
OWN_SCHEMES = ("file:", "data:", "blob:", "about:")

# text elements whose contrast with what is behind them is below a limit, in the order of the page
CONTRAST = """
(limit) => {
  const channel = (c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] > 0.99) return color;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  for (const element of document.querySelectorAll(
    "article p, article li, article td, article th, article dt, article dd, article h1, article h2, article text")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const front = parse(element.tagName === "text" ? style.fill : style.color);
    const pair = [luminance(front), luminance(background(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < limit) found.push(`${ratio.toFixed(2)}: ${element.textContent.trim().slice(0, 40)}`);
  }
  return found;
}
"""
# elements that reach past the right edge and are not inside something that scrolls
OVERFLOW = """
() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width + 1) return [];
  const found = [];
  for (const element of document.querySelectorAll("main *")) {
    if (element.getBoundingClientRect().right > width + 1 && !element.closest("pre"))
      found.push(element.tagName + "." + element.getAttribute("class"));
  }
  return [`scrolls to ${document.documentElement.scrollWidth} of ${width}`, ...found.slice(0, 5)];
}
"""
# pictures that say nothing to those who do not see them
SILENT = """
() => [...document.querySelectorAll("main img, main svg")]
  .filter((e) => !e.closest("mjx-container, button, .headerlink, [aria-hidden=true]"))
  .filter((e) => !(e.getAttribute("alt") || e.getAttribute("aria-label") || "").trim())
  .map((e) => e.outerHTML.slice(0, 120))
"""


@dataclass
class Visit:
    """What one page showed."""

    events: list[str] = field(default_factory=list)
    formulas: int = 0
    rendered: int = 0
    math_errors: int = 0
    pale_light: list[str] = field(default_factory=list)
    pale_dark: list[str] = field(default_factory=list)
    overflow: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    sliders: int = 0


def refuse(reason: str) -> None:
    """Skip with a reason, or fail where the browser tests are demanded."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


def chromium() -> str:
    """Return the path of Debian's Chromium."""
    found = shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(found).exists():
        refuse("there is no chromium on this machine")
    return found


def current_site() -> list[Path]:
    """Return the pages of the built site, if it is today's."""
    stamp = SITE / ".built-from"
    if not stamp.is_file() or stamp.read_text() != site_key(ROOT):
        refuse("the site in _build/html is missing or not today's: run make book")
    # templates of the theme, a page that only a server shows, and the way to the first page
    others = {SITE / "404.html", SITE / "index.html"}
    return [path for path in sorted(SITE.rglob("*.html")) if "_static" not in path.parts and path not in others]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium."""
    path = chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def offline_page(started: Browser, **options: Any) -> Iterator[tuple[Page, list[str]]]:
    """Open an empty page without network; the list collects every failed request and message."""
    context = started.new_context(offline=True, **options)
    page = context.new_page()
    events: list[str] = []
    page.on("requestfailed", lambda request: events.append(f"failed: {request.url[:200]}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith(OWN_SCHEMES) else events.append(f"asked: {request.url[:200]}"),
    )
    page.on(
        "console",
        lambda message: (
            events.append(f"{message.type}: {message.text[:300]}") if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: events.append(f"exception: {error}"))
    try:
        yield page, events
    finally:
        context.close()


def set_theme(page: Page, theme: str) -> None:
    """Switch between light and dark as the page's own button does."""
    page.evaluate(
        "(theme) => { document.documentElement.dataset.theme = theme; document.documentElement.dataset.mode = theme; }",
        theme,
    )


def visit(page: Page, events: list[str], path: Path) -> Visit:
    """Look at one page: desktop and phone, light and dark."""
    events.clear()
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(path.as_uri(), wait_until="load")
    seen = Visit()
    seen.formulas = page.locator("main .math").count()
    if seen.formulas:
        page.evaluate("() => window.MathJax.startup.promise")
        seen.rendered = page.locator("main mjx-container").count()
        seen.math_errors = page.locator("main mjx-merror, main [data-mjx-error]").count()
    seen.silent = page.evaluate(SILENT)
    seen.sliders = page.locator("[data-nnopt-figure] input[type=range]").count()
    set_theme(page, "light")
    seen.pale_light = page.evaluate(CONTRAST, 4.5)
    set_theme(page, "dark")
    seen.pale_dark = page.evaluate(CONTRAST, 4.5)
    folder = os.environ.get("NNOPT_SCREENSHOTS")
    if folder:
        photograph(page, path, Path(folder))
    page.set_viewport_size({"width": 390, "height": 844})
    seen.overflow = page.evaluate(OVERFLOW)
    seen.events = list(events)
    return seen


def photograph(page: Page, path: Path, folder: Path) -> None:
    """Save the page as it is seen: light, dark, phone."""
    name = path.relative_to(SITE).with_suffix("").as_posix().replace("/", "-")
    for theme in ("light", "dark"):
        set_theme(page, theme)
        page.screenshot(path=folder / f"{name}-{theme}.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 844})
    set_theme(page, "light")
    page.screenshot(path=folder / f"{name}-phone.png", full_page=True)
