"""Seeds by hash: disjoint between streams and offsets, equal alone and in a stack."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt.seeding import PURPOSES, STREAMS, Seed, current_offset, current_stream, seeds


def test_no_run_is_shared_between_streams_offsets_versions_or_experiments() -> None:
    numbers = [
        seed.integer("noise")
        for name, version, stream, offset in itertools.product(("a", "b"), (1, 2), STREAMS, range(4))
        for seed in seeds(name, 20, version=version, stream=stream, offset=offset)
    ]
    assert len(set(numbers)) == len(numbers) == 2 * 2 * 3 * 4 * 20


@given(st.integers(1, 30), st.integers(0, 29), st.sampled_from(PURPOSES))
@settings(derandomize=True, deadline=None)
def test_a_seed_alone_equals_the_same_seed_in_any_stack(n: int, index: int, purpose: str) -> None:
    index %= n
    assert seeds("x", n)[index].integer(purpose) == Seed("x", 1, "report", 0, index).integer(purpose)


def test_purposes_do_not_share_numbers_and_do_not_shift_each_other() -> None:
    seed = seeds("x", 1)[0]
    before = seed.integer("initialization")
    torch.rand(1000, generator=seed.generator("noise"))
    assert seed.integer("initialization") == before
    assert len({seed.integer(purpose) for purpose in PURPOSES}) == len(PURPOSES)


def test_the_first_seed_is_this_one_on_every_machine() -> None:
    assert seeds("x", 2)[1].integer("noise") == 3027117625660742196


def test_generators_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=seeds("x", 1)[0].generator("batches"))
    assert torch.equal(before, torch.get_rng_state())


def test_offset_and_stream_are_read_at_call_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNOPT_SEED_OFFSET", raising=False)
    monkeypatch.delenv("NNOPT_SEED_STREAM", raising=False)
    assert (current_offset(), current_stream()) == (0, "report")
    monkeypatch.setenv("NNOPT_SEED_OFFSET", "7")
    monkeypatch.setenv("NNOPT_SEED_STREAM", "pilot")
    assert (seeds("x", 1)[0].offset, seeds("x", 1)[0].stream) == (7, "pilot")


@pytest.mark.parametrize("text", ["-1", "1.5", "", "two"])
def test_a_bad_offset_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NNOPT_SEED_OFFSET", text)
    with pytest.raises(ValueError, match="NNOPT_SEED_OFFSET must be an integer >= 0"):
        current_offset()


def test_bad_arguments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_SEED_STREAM", "test")
    with pytest.raises(ValueError, match="NNOPT_SEED_STREAM must be one of 'tune', 'pilot', 'report', got 'test'"):
        current_stream()
    with pytest.raises(ValueError, match="num_runs must be >= 1, got 0"):
        seeds("x", 0, stream="report")
    with pytest.raises(ValueError, match="experiment must not be empty"):
        seeds("", 1, stream="report")
    with pytest.raises(ValueError, match="purpose must be one of"):
        seeds("x", 1, stream="report")[0].integer("weights")
    with pytest.raises(ValueError, match="version must be >= 1, got 0"):
        seeds("x", 1, version=0, stream="report")
    with pytest.raises(TypeError, match="offset must be an integer, got float"):
        seeds("x", 1, stream="report", offset=1.0)  # type: ignore[arg-type]
