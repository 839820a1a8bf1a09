"""One published row, and how it comes out of a result."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass

from nnopt.checks import require_non_empty
from nnopt.seeding import current_stream

from ._publish import CLAIM_MIME, claim_html, glue, interval_text, plain_line, requirement_text, show


class ClaimFailed(AssertionError):
    """The interval of a claim does not clear its margin."""


@dataclass(frozen=True)
class Claim:
    """One published row; the fields are the columns of the register of claims."""

    id: str
    chapter: str
    statement: str
    kind: str
    scope: str
    experiment: str
    version: int
    metric: str
    unit: str
    direction: str
    scale: str
    margin: float
    value: float
    low: float
    high: float
    n: int
    sd: float | None
    d: float | None
    seeds: list[int]
    values: list[float]
    failed_runs: int
    timing: bool
    status: str
    held: bool

    def publish(self) -> None:
        """Show the claim, give its numbers to the prose, and then raise if it failed.

        Raises:
            ClaimFailed: the status is ``failed``; the row has been published.
        """
        row = asdict(self) | {"pilot": None}
        row |= {"seen": interval_text(row), "claimed": requirement_text(row)}  # other pages print them alike
        show({"text/plain": plain_line(row), "text/html": claim_html(row), CLAIM_MIME: row})
        name = self.id.split("#")[1]
        for key, value in (("", self.value), ("-low", self.low), ("-high", self.high), ("-n", self.n)):
            glue(name + key, value)
        glue(name + "-margin", self.margin)
        if self.status == "failed":
            raise ClaimFailed(plain_line(row))

    def _ipython_display_(self) -> None:
        """Show nothing more: ``publish`` has already shown the row."""


def check_id(id: str) -> None:
    if not re.fullmatch(r"[a-z_]+(/[a-z_0-9]+)?#[a-z0-9-]+", id):
        raise ValueError(f"id must look like 'room/chapter#short-name', got {id!r}")


def finish(
    id: str, statement: str, kind: str, scope: str, experiment: str | None, version: int,
    metric: str, unit: str, direction: str, scale: str, margin: float, *,
    values: list[float], interval: tuple[float, float, float], sd: float | None, d: float | None,
    failed_runs: int, held: bool, status: str | None = None, n: int | None = None, timing: bool = False,
) -> Claim:  # fmt: skip
    """Make the row and publish it; intervals and values come on the scale of averaging."""
    check_id(id)
    require_non_empty("statement", statement)
    require_non_empty("scope", scope)
    to_page: Callable[[float], float] = math.exp if scale == "ratio" else float
    if status is None:
        status = "held" if held else "failed"
    if current_stream() != "report" and status == "failed":
        status = "pilot"  # a pilot chooses the margin: it cannot fail at it
    claim = Claim(
        id=id, chapter=id.split("#")[0], statement=statement, kind=kind, scope=scope, experiment=experiment or id,
        version=version, metric=metric, unit=unit, direction=direction, scale=scale, margin=float(margin),
        value=to_page(interval[0]), low=to_page(interval[1]), high=to_page(interval[2]),
        n=len(values) if n is None else n, sd=sd, d=d, seeds=list(range(len(values))),
        values=[float(f"{to_page(value):.6g}") for value in values], failed_runs=failed_runs,
        timing=timing, status=status, held=held,
    )  # fmt: skip
    claim.publish()
    return claim
