"""Claims: what holds, what fails, what is refused, and what reaches the page."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnopt.measurement import _publish as publish
from nnopt.measurement import claims
from nnopt.measurement._planning import round_toward, seeds_needed
from nnopt.seeding import Seed

ARGUMENTS: dict[str, Any] = {"metric": "accuracy, new − old", "scope": "seeds"}


def normal(seed: Seed, mean: float, sd: float) -> float:
    return float(np.random.default_rng(seed.integer("noise")).normal(mean, sd))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect what claims would publish on a page."""
    published: list[dict[str, Any]] = []

    def keep(bundle: dict[str, Any], metadata: object = None) -> None:
        published.append(dict(bundle))

    monkeypatch.setattr("nnopt.measurement._row.show", keep)
    monkeypatch.setattr("nnopt.measurement._publish.show", keep)
    return published


def row_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(next(bundle[publish.CLAIM_MIME] for bundle in rows if publish.CLAIM_MIME in bundle))


def test_difference_equals_scipys_paired_interval(rows: list[dict[str, Any]]) -> None:
    def pair(seed: Seed) -> tuple[float, float]:
        return normal(seed, 0.9, 0.01), normal(seed, 0.9, 0.01) - 0.2 + 0.01 * seed.index

    claim = claims.difference(
        "a/b#c", "New beats old.", each=pair, margin=0.05, direction="above", num_seeds=9, **ARGUMENTS
    )
    drawn = [Seed("a/b#c", 1, "report", 0, index) for index in range(9)]
    new, old = zip(*[pair(seed) for seed in drawn])
    reference = stats.ttest_rel(new, old).confidence_interval(0.95)
    assert (claim.low, claim.high) == pytest.approx((reference.low, reference.high), rel=1e-12)
    assert claim.value == pytest.approx(np.mean(np.subtract(new, old)), rel=1e-12)
    assert claim.held
    assert row_of(rows)["n"] == 9


def test_a_ratio_averages_logarithms(rows: list[dict[str, Any]]) -> None:
    ratios = [0.2, 0.4, 0.3, 0.25, 0.5]
    claim = claims.difference(
        "a/b#c", "Fewer.", each=lambda seed: (ratios[seed.index] * 7, 7.0), scale="ratio", margin=0.8,
        direction="below", num_seeds=5, **ARGUMENTS,
    )  # fmt: skip
    assert claim.value == pytest.approx(math.exp(np.log(ratios).mean()))
    assert claim.low < claim.value < claim.high < 0.8


def test_together_and_each_give_the_same_row(rows: list[dict[str, Any]]) -> None:
    def one(seed: Seed) -> tuple[float, float]:
        return normal(seed, 3, 0.1), 2.0

    def all_of(drawn: Sequence[Seed]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([one(seed)[0] for seed in drawn]), np.full(len(drawn), 2.0)

    shared: dict[str, Any] = {"margin": 0.1, "direction": "above", "num_seeds": 8, **ARGUMENTS}
    assert claims.difference("a/b#c", "s", each=one, **shared) == claims.difference(
        "a/b#c", "s", together=all_of, **shared
    )


def test_two_claims_of_one_experiment_speak_of_the_same_runs(rows: list[dict[str, Any]]) -> None:
    shared: dict[str, Any] = {"each": lambda s: normal(s, 3, 1), "direction": "above", "num_seeds": 8, **ARGUMENTS}
    first = claims.difference("a/b#c", "s", margin=0.1, **shared)
    same = claims.difference("a/b#d", "s", margin=0.2, experiment="a/b#c", **shared)
    other = claims.difference("a/b#d", "s", margin=0.2, **shared)
    assert first.values == same.values
    assert same.experiment == "a/b#c"
    assert first.values != other.values


def test_a_failing_claim_publishes_its_row_before_it_raises(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(claims.ClaimFailed, match="FAILED: New beats old"):
        claims.difference(
            "a/b#c", "New beats old.", each=lambda s: normal(s, 0.0, 1.0), margin=0.01, direction="above",
            num_seeds=8, **ARGUMENTS,
        )  # fmt: skip
    row = row_of(rows)
    assert row["status"] == "failed"
    assert row["held"] is False
    assert row["claimed"] == "above 0.010"
    assert row["seen"] in publish.plain_line(row)


def test_only_the_near_end_of_the_interval_counts(rows: list[dict[str, Any]]) -> None:
    values = [0.9, 1.1, 1.0, 1.2, 0.8]
    low = float(np.mean(values) - stats.t.ppf(0.975, 4) * np.std(values, ddof=1) / math.sqrt(5))
    shared: dict[str, Any] = {
        "each": lambda s: values[s.index],
        "direction": "above",
        "num_seeds": 5,
        **ARGUMENTS,
    }
    assert claims.difference("a/b#c", "s", margin=low - 1e-9, **shared).held
    with pytest.raises(claims.ClaimFailed):
        claims.difference("a/b#c", "s", margin=low + 1e-9, **shared)


def test_a_pilot_cannot_fail_and_runs_at_least_sixteen_seeds(
    rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNOPT_SEED_STREAM", "pilot")
    claim = claims.difference(
        "a/b#c", "s", each=lambda s: normal(s, 0, 1), margin=5, direction="above", num_seeds=8, **ARGUMENTS
    )
    assert (claim.status, claim.n, claim.held) == ("pilot", 16, False)


def test_an_offset_draws_other_seeds(rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[float]:
        return claims.difference(
            "a/b#c",
            "s",
            each=lambda s: normal(s, 9, 1),
            margin=1,
            direction="above",
            num_seeds=8,
            **ARGUMENTS,
        ).values

    first = run()
    monkeypatch.setenv("NNOPT_SEED_OFFSET", "1")
    assert not set(first) & set(run())


@pytest.mark.parametrize(("mean", "held"), [(0.0, True), (0.9, False), (-0.9, False), (2.0, False)])
def test_equivalence_wants_the_whole_interval_inside(rows: list[dict[str, Any]], mean: float, held: bool) -> None:
    values = [mean + x for x in (-0.2, -0.1, 0.0, 0.1, 0.2)]
    arguments: dict[str, Any] = {
        "each": lambda s: values[s.index],
        "margin": 1.0,
        "num_seeds": 5,
        **ARGUMENTS,
    }
    if held:
        assert claims.equivalence("a/b#c", "Less than one.", **arguments).held
    else:
        with pytest.raises(claims.ClaimFailed):
            claims.equivalence("a/b#c", "Less than one.", **arguments)


def test_equivalence_of_ratios_uses_the_reciprocal_band(rows: list[dict[str, Any]]) -> None:
    ratios = [0.8, 0.85, 0.9, 0.8, 0.85]
    arguments: dict[str, Any] = {
        "each": lambda s: ratios[s.index],
        "num_seeds": 5,
        "scale": "ratio",
        **ARGUMENTS,
    }
    assert claims.equivalence("a/b#c", "s", margin=1.5, **arguments).held
    with pytest.raises(claims.ClaimFailed):
        claims.equivalence("a/b#c", "s", margin=1.1, **arguments)


def test_frequency_equals_clopper_pearson_by_its_definition(rows: list[dict[str, Any]]) -> None:
    claim = claims.frequency(
        "a/b#c",
        "Often.",
        each=lambda s: s.index < 14,
        margin=0.5,
        direction="above",
        num_seeds=16,
        **ARGUMENTS,
    )
    assert stats.binom.sf(13, 16, claim.low) == pytest.approx(0.025, abs=1e-9)
    assert stats.binom.cdf(14, 16, claim.high) == pytest.approx(0.025, abs=1e-9)
    assert claim.value == 14 / 16


def test_frequency_fails_when_the_count_is_too_small(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(claims.ClaimFailed):
        claims.frequency(
            "a/b#c",
            "s",
            each=lambda s: s.index < 10,
            margin=0.5,
            direction="above",
            num_seeds=16,
            **ARGUMENTS,
        )


@pytest.mark.parametrize(
    ("value", "direction", "held"),
    [(3, "below", True), (3.1, "below", False), (3, "above", True), (2.9, "above", False),
     (-3, "within", True), (-3.1, "within", False)],
)  # fmt: skip
def test_a_bound_may_reach_its_limit(rows: list[dict[str, Any]], value: float, direction: Any, held: bool) -> None:
    def make() -> claims.Claim:
        return claims.bound("a/b#c", "s", metric="m", value=value, margin=3, direction=direction)

    if held:
        assert make().seeds == []
    else:
        with pytest.raises(claims.ClaimFailed):
            make()


class Measured:
    ratio, low, high, conclusive, num_blocks = 2.0, 1.8, 2.2, True, 8


@pytest.mark.parametrize(
    ("margin", "direction", "conclusive", "status"),
    [(1.5, "above", True, "held"), (1.9, "above", True, "inconclusive"), (2.5, "above", True, "failed"),
     (2.5, "below", True, "held"), (1.5, "below", True, "failed"), (1.5, "above", False, "inconclusive"),
     (2.5, "above", False, "inconclusive")],
)  # fmt: skip
def test_a_noisy_machine_makes_a_timing_inconclusive_not_false(
    rows: list[dict[str, Any]], margin: float, direction: Any, conclusive: bool, status: str
) -> None:
    measured = Measured()
    measured.conclusive = conclusive
    if status == "failed":
        with pytest.raises(claims.ClaimFailed):
            claims.time_ratio("a/b#c", "s", measured, metric="t", margin=margin, direction=direction)
    else:
        claims.time_ratio("a/b#c", "s", measured, metric="t", margin=margin, direction=direction)
    assert row_of(rows)["status"] == status
    assert row_of(rows)["timing"] is True
    assert row_of(rows)["value"] == pytest.approx(2.0)


def test_runs_that_never_reach_the_target_count_as_the_budget_in_one_arm_only(
    rows: list[dict[str, Any]],
) -> None:
    def run(seed: Seed) -> tuple[float, float]:
        return 10.0 + seed.index, math.inf if seed.index == 0 else 100.0

    arguments: dict[str, Any] = {
        "margin": 0.5,
        "direction": "below",
        "num_seeds": 8,
        "scale": "ratio",
        **ARGUMENTS,
    }
    claim = claims.difference("a/b#c", "s", each=run, budget=200, **arguments)
    assert claim.failed_runs == 1
    assert claim.values[0] == pytest.approx(10 / 200)
    with pytest.raises(ValueError, match="1 runs are infinite: give both arms and a budget"):
        claims.difference("a/b#c", "s", each=run, **arguments)
    with pytest.raises(claims.ClaimFailed):  # a quarter is the limit
        claims.difference(
            "a/b#c",
            "s",
            each=lambda s: (1.0 + s.index, math.inf if s.index < 3 else 100.0),
            budget=200,
            **arguments,
        )
    with pytest.raises(claims.ClaimFailed):  # the winning arm may not fail
        claims.difference(
            "a/b#c", "s", each=lambda s: (math.inf if s.index else 1.0, math.inf if not s.index else 90.0),
            budget=200, **arguments,
        )  # fmt: skip


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"id": "nonsense"}, "id must look like"),
    ({"num_seeds": 4}, "num_seeds must be >= 5, got 4"),
    ({"each": None}, "exactly one of each and together"),
    ({"together": lambda s: s}, "exactly one of each and together"),
    ({"each": lambda s: math.nan}, "a run gave NaN"),
    ({"each": lambda s: 1.5}, "an exact result is a bound"),
    ({"direction": "within"}, "direction must be one of"),
    ({"scale": "log"}, "scale must be one of"),
    ({"scale": "ratio", "each": lambda s: -1.0 - s.index}, "a ratio needs values > 0"),
    ({"budget": -1.0}, "budget must be > 0"),
    ({"statement": ""}, "statement must not be empty"),
    ({"each": None, "together": lambda s: [1.0]}, "must return one number per seed"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS)
def test_bad_arguments_are_refused_and_publish_nothing(
    rows: list[dict[str, Any]], change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {
        "id": "a/b#c", "statement": "s", "each": lambda s: normal(s, 5, 1), "margin": 1.0,
        "direction": "above", "num_seeds": 8, **ARGUMENTS, **change,
    }  # fmt: skip
    with pytest.raises(ValueError, match=re.escape(message)):
        claims.difference(**arguments)
    assert rows == []


def test_equivalence_and_frequency_and_bound_refuse_bad_arguments(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="margin must be > 1 on scale 'ratio'"):
        claims.equivalence("a/b#c", "s", each=lambda s: 1.0, margin=0.9, scale="ratio", num_seeds=8, **ARGUMENTS)
    with pytest.raises(ValueError, match="margin must be > 0, got -1"):
        claims.equivalence("a/b#c", "s", each=lambda s: 1.0, margin=-1, num_seeds=8, **ARGUMENTS)
    with pytest.raises(ValueError, match="an exact result is a bound"):
        claims.equivalence("a/b#c", "s", each=lambda s: 0.0, margin=1, num_seeds=8, **ARGUMENTS)
    with pytest.raises(ValueError, match=re.escape("margin must be in (0, 1), got 1")):
        claims.frequency("a/b#c", "s", each=lambda s: True, margin=1, direction="above", num_seeds=8, **ARGUMENTS)
    with pytest.raises(ValueError, match="every run must answer yes or no"):
        claims.frequency(
            "a/b#c", "s", together=lambda s: [0.5] * len(s), margin=0.5, direction="above", num_seeds=8, **ARGUMENTS
        )
    with pytest.raises(ValueError, match="value must be finite, got nan"):
        claims.bound("a/b#c", "s", metric="m", value=math.nan, margin=1, direction="below")
    with pytest.raises(ValueError, match="direction must be one of"):
        claims.bound("a/b#c", "s", metric="m", value=1, margin=1, direction="over")  # type: ignore[arg-type]
    assert rows == []


def test_plan_follows_the_table_of_distances() -> None:
    base = np.tile([-1.0, 1.0], 8) / np.std(np.tile([-1.0, 1.0], 8), ddof=1)
    for distance, needed in [(4.6, 5), (3.1, 8), (2.6, 9), (2.1, 13), (1.6, 26), (1.3, 38), (1.0, 0)]:
        for sign, direction in ((1, "above"), (-1, "below")):
            made = claims.plan((sign * distance + base).tolist(), margin=0.0, direction=direction)  # type: ignore[arg-type]
            assert made.num_seeds == needed
            assert made.claimable == (needed > 0)
            assert made.distance == pytest.approx(distance)


def test_plan_with_two_sets_takes_the_nearer_mean_and_the_larger_spread() -> None:
    base = np.tile([-1.0, 1.0], 8) / np.std(np.tile([-1.0, 1.0], 8), ddof=1)
    made = claims.plan((5 + base).tolist(), (4.01 + 2 * base).tolist(), margin=1.0, direction="above")
    assert made.distance == pytest.approx(1.505)
    assert made.num_seeds == 16  # (6 / 1.505)², rounded up
    assert made.margin <= 4.01 - 6 * 2 / math.sqrt(8) + 1e-9


def test_plan_of_an_equivalence_leaves_room_on_both_sides() -> None:
    base = np.tile([-0.1, 0.1], 8)
    sd = float(np.std(base, ddof=1))
    made = claims.plan((base - 0.05).tolist(), margin=0.5, direction="within")
    assert made.distance == pytest.approx((0.5 - 0.05) / sd)
    assert made.margin >= 0.05 + 3 * sd


@pytest.mark.parametrize(
    ("values", "message"),
    [([1.0] * 9, "at least 10 values"), ([1.0] * 12, "claim a bound"),
     ([math.nan] + [float(x) for x in range(12)], "must be finite"),
     ([50.0] + [1.0 + 0.01 * x for x in range(12)], "claim a frequency")],
)  # fmt: skip
def test_plan_refuses_pilots_that_cannot_plan(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        claims.plan(values, margin=0.5, direction="above")


@given(st.floats(-50, 50), st.integers(5, 40))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_a_claim_that_just_clears_its_margin_holds_again_about_half_the_time(distance: float, n: int) -> None:
    probability = claims.hold_probability(distance, n)
    assert 0 <= probability <= 1
    critical = float(stats.t.ppf(0.975, n - 1))
    assert claims.hold_probability(critical, n) == pytest.approx(0.5, abs=0.1)
    assert claims.hold_probability(distance + 1, n) >= probability - 1e-9


def test_hold_probability_agrees_with_simulation_of_the_rule_itself() -> None:
    rng = np.random.default_rng(5)
    draws = rng.normal(4 / math.sqrt(8), 1, size=(20_000, 8))
    low = draws.mean(1) - stats.t.ppf(0.975, 7) * draws.std(1, ddof=1) / math.sqrt(8)
    assert (low > 0).mean() == pytest.approx(claims.hold_probability(4, 8), abs=0.01)


def test_hold_probability_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="num_seeds must be >= 2, got 1"):
        claims.hold_probability(1.0, 1)
    with pytest.raises(ValueError, match="distance must be finite"):
        claims.hold_probability(math.nan, 5)


@given(st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-6), st.sampled_from([-math.inf, math.inf]))
@settings(derandomize=True, deadline=None)
def test_rounding_a_margin_never_makes_it_bolder(value: float, target: float) -> None:
    rounded = round_toward(value, target)
    assert rounded == pytest.approx(value, rel=0.11)
    assert (rounded >= value - 1e-9 * abs(value)) if target > 0 else (rounded <= value + 1e-9 * abs(value))


def test_two_sets_never_ask_for_more_than_the_limit() -> None:
    assert seeds_needed(0.5, num_sets=2) is None
    assert seeds_needed(-3.0, num_sets=2) is None
    assert seeds_needed(2.0, num_sets=2) == 9


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [(0.0441, 0.013, "0.044"), (-3.0, 0.0, "−3"), (12345.0, 0.0, "12,345"), (0.5, 0.0, "0.50"),
     (math.inf, 1.0, "∞"), (math.nan, 0.0, "NaN"), (2.7e-17, 0.0, "2.7e−17"), (1e33, 0.0, "1e+33")],
)  # fmt: skip
def test_numbers_have_the_digits_their_interval_deserves(value: float, width: float, text: str) -> None:
    assert publish.number(value, width) == text


def test_the_page_shows_sentence_interval_margin_and_scope(rows: list[dict[str, Any]]) -> None:
    claims.difference(
        "a/b#more-here", "Five < six & more.", each=lambda s: normal(s, 5, 0.1), margin=1, direction="above",
        num_seeds=8, **ARGUMENTS,
    )  # fmt: skip
    html = next(bundle["text/html"] for bundle in rows if "text/html" in bundle)
    for part in (
        "Five &lt; six &amp; more.",
        'id="claim-more-here"',
        "claimed above 1",
        "n = 8",
        "aria-label",
    ):
        assert part in html
    names = {key for bundle in rows for key in bundle}
    assert "application/papermill.record/text/plain" in names


def test_glue_refuses_what_prose_cannot_print() -> None:
    for key, value, error in [("", 1, ValueError), ("a", math.nan, ValueError), ("a", True, TypeError)]:
        with pytest.raises(error):
            claims.glue(key, value)
    with pytest.raises(TypeError, match="value must be a number or a string, got list"):
        claims.glue("a", [1])  # type: ignore[arg-type]


def test_outside_a_notebook_a_claim_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    claims.bound("a/b#c", "Ten bytes.", metric="size", value=10, margin=10, direction="below", unit="bytes")
    assert capsys.readouterr().out == "HELD: Ten bytes. size 10 bytes, claimed below 10, exact\n"


def test_the_planted_fault_of_ignoring_the_pairing_is_seen(rows: list[dict[str, Any]]) -> None:
    """An unpaired interval of these two arms would be far too wide for the claim."""

    def pair(seed: Seed) -> tuple[float, float]:
        shared = normal(seed, 0, 10)
        return shared + 1.0 + 0.01 * seed.index, shared

    claim: Callable[[], claims.Claim] = lambda: claims.difference(  # noqa: E731
        "a/b#c", "s", each=pair, margin=0.5, direction="above", num_seeds=8, **ARGUMENTS
    )
    assert claim().high - claim().low < 0.1
