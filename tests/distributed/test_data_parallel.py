"""Data parallelism: the mean over parts, on lists and in real groups; shards, spread, bytes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset, DistributedSampler, TensorDataset

from nnopt.distributed import combine_gradients, compare_step_times, launch, ring_bytes, shard_rows
from tests.distributed import workers

DEADLINE_S = 60.0


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand_the_mean_over_three_rows_and_one_row() -> None:
    combined = combine_gradients([torch.tensor([[1.0, -2.0]]), torch.tensor([[5.0, 2.0]])], [3, 1])
    assert combined.tolist() == [[2.0, -1.0]]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(lambda parts: sum(parts) > 0))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_combined_parts_are_the_gradient_of_the_whole_batch(parts: list[int]) -> None:
    inputs, targets, weights = random(sum(parts), 4), random(sum(parts), seed=1), random(4, seed=2)

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        theta = weights.clone().requires_grad_()
        (result,) = torch.autograd.grad((x @ theta - y).tanh().square().mean(), theta)
        return result

    pieces = [gradient(x, y) for x, y in zip(inputs.split(parts), targets.split(parts), strict=True)]
    torch.testing.assert_close(combine_gradients(pieces, parts), gradient(inputs, targets), rtol=1e-12, atol=1e-12)


def test_one_part_is_returned_as_it_is_and_nothing_is_changed() -> None:
    gradient, other = random(3), random(3, seed=1)
    kept = gradient.clone()
    assert torch.equal(combine_gradients([gradient], [7]), gradient)
    assert torch.equal(combine_gradients([gradient, torch.full((3,), math.nan)], [2, 0]), gradient)
    combine_gradients([gradient, other], [1, 2])
    assert torch.equal(gradient, kept)


def test_refusals_of_combine_gradients() -> None:
    one, two = torch.ones(2), torch.ones(3)
    with pytest.raises(ValueError, match="gradients must not be empty"):
        combine_gradients([], [])
    with pytest.raises(ValueError, match="num_rows must be one per gradient, got 1 for 2"):
        combine_gradients([one, one], [1])
    with pytest.raises(ValueError, match=r"gradients\[0\] and gradients\[1\] must have the same shape"):
        combine_gradients([one, two], [1, 1])
    with pytest.raises(ValueError, match=r"num_rows\[1\] must be >= 0, got -1"):
        combine_gradients([one, one], [3, -1])
    with pytest.raises(TypeError, match=r"num_rows\[0\] must be an integer, got float"):
        combine_gradients([one], [1.0])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="the sum of num_rows must be > 0, got 0"):
        combine_gradients([one, one], [0, 0])


def test_real_processes_agree_with_the_big_batch_and_planted_faults_do_not() -> None:
    """One start of two processes serves every equality: see ``workers.train_all_ways``."""
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(random(*parameter.shape, seed=number))
    model[2].bias.requires_grad_(False)  # frozen: left out by both
    batches = [(random(12, 5, seed=step), random(12, 3, seed=step + 50)) for step in range(50)]
    whole = workers.train(model, batches, [12], "alone", rank=0)
    first, second = launch(workers.train_all_ways, 2, model, batches, deadline_s=DEADLINE_S)
    for name in ("even, averaged", "even, DDP", "uneven, averaged", "uneven, DDP with scaled loss"):
        torch.testing.assert_close(first[name], whole, rtol=1e-12, atol=1e-12, msg=name)
        assert torch.equal(first[name], second[name])
        assert first[f"{name}: spread"] == 0.0
    # DDP's plain mean over uneven parts keeps the replicas equal, and wrong: only the comparison sees it
    assert torch.equal(first["uneven, DDP"], second["uneven, DDP"])
    assert float((first["uneven, DDP"] - whole).abs().max()) > 1e-3
    # no exchange at all: the spread sees it, and equals the distance of what came back
    drifted = float((first["even, alone"] - second["even, alone"]).abs().max())
    assert drifted > 1e-3
    assert first["even, alone: spread"] == pytest.approx(drifted, rel=1e-12)


def test_the_exchange_in_special_cases_and_its_refusals() -> None:
    for answers in launch(workers.special_cases, 2, deadline_s=DEADLINE_S):
        assert answers == {
            "a rank without rows": [4.0, 4.0],
            "a gradient of None counts as zero": [1.5],
            "two dtypes": [["torch.float32", 2.0], ["torch.float64", 2.0], ["torch.float32", 4.0]],
            "the gradient is its own memory": True,
            "spread of equal replicas": 0.0,
            "spread of one buffer": 3.0,
            "spread with NaN": "nan",
            "refused": [
                "num_rows must be >= 0, got -1",
                "num_rows must be an integer, got float",
                "the sum of num_rows must be > 0, got 0",
                "parameters that need a gradient must not be empty",
                "tensors must not be empty",
                "inputs must have a row for each of 2 ranks, got 1",
                "num_steps must be >= 1, got 0",
                "num_blocks must be >= 6, got 5",
            ],
        }


@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 3), st.integers(0, 3))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_shards_are_disjoint_complete_and_nearly_equal(extra: int, world_size: int, epoch: int, seed: int) -> None:
    num_rows = world_size + extra
    shards = [shard_rows(num_rows, rank=r, world_size=world_size, epoch=epoch, seed=seed) for r in range(world_size)]
    assert sorted(torch.cat(shards).tolist()) == list(range(num_rows))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def sampler_of(rank: int, *, seed: int) -> DistributedSampler[int]:
    rows: Dataset[int] = TensorDataset(torch.arange(20))  # type: ignore[assignment]
    return DistributedSampler(rows, num_replicas=4, rank=rank, shuffle=True, seed=seed)


def test_shards_are_those_of_torchs_sampler_where_it_repeats_nothing() -> None:
    for epoch in range(3):
        for rank in range(4):
            sampler = sampler_of(rank, seed=5)
            sampler.set_epoch(epoch)
            assert shard_rows(20, rank=rank, world_size=4, epoch=epoch, seed=5).tolist() == list(sampler)


def test_torchs_sampler_without_set_epoch_repeats_its_order_and_ours_cannot() -> None:
    sampler = sampler_of(1, seed=0)
    assert list(sampler) == list(sampler)
    ours = [shard_rows(20, rank=1, world_size=4, epoch=epoch).tolist() for epoch in range(2)]
    assert ours[0] != ours[1]


def test_refusals_of_shard_rows() -> None:
    with pytest.raises(ValueError, match="num_rows must be >= 3, got 2"):
        shard_rows(2, rank=0, world_size=3, epoch=0)
    with pytest.raises(ValueError, match="rank must be < world_size = 3, got 3"):
        shard_rows(9, rank=3, world_size=3, epoch=0)
    with pytest.raises(ValueError, match="rank must be >= 0, got -1"):
        shard_rows(9, rank=-1, world_size=3, epoch=0)
    with pytest.raises(ValueError, match="world_size must be >= 1, got 0"):
        shard_rows(9, rank=0, world_size=0, epoch=0)
    with pytest.raises(ValueError, match="epoch must be >= 0, got -1"):
        shard_rows(9, rank=0, world_size=3, epoch=-1)
    with pytest.raises(TypeError, match="seed must be an integer, got float"):
        shard_rows(9, rank=0, world_size=3, epoch=0, seed=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ring_bytes_are_those_of_a_ring_played_by_hand(world_size: int) -> None:
    """Chunks go around: p − 1 steps to sum them, p − 1 to hand out the sums, one chunk of b/p bytes in each."""
    num_bytes = 24 * 8
    chunks = [[[rank + 1.0] * (24 // world_size) for _ in range(world_size)] for rank in range(world_size)]
    sent = 0
    for step in range(2 * (world_size - 1)):
        moving = [
            (rank, (rank - step) % world_size, chunks[rank][(rank - step) % world_size]) for rank in range(world_size)
        ]
        for rank, place, chunk in moving:
            there = chunks[(rank + 1) % world_size]
            summing = step < world_size - 1
            there[place] = [a + b for a, b in zip(there[place], chunk, strict=True)] if summing else list(chunk)
        sent += 8 * len(moving[0][2])
    assert chunks == [[[world_size * (world_size + 1) / 2] * (24 // world_size)] * world_size] * world_size
    assert ring_bytes(num_bytes, world_size) == sent


def test_refusals_of_ring_bytes() -> None:
    with pytest.raises(ValueError, match="num_bytes must be >= 0, got -1"):
        ring_bytes(-1, 2)
    with pytest.raises(TypeError, match="num_bytes must be an integer, got float"):
        ring_bytes(1.5, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="world_size must be >= 1, got 0"):
        ring_bytes(8, 0)


def test_step_times_come_back_alike_from_every_rank_and_the_model_is_kept() -> None:
    model = nn.Linear(3, 2)
    kept = [parameter.clone() for parameter in model.parameters()]
    inputs, targets = random(8, 3).float(), random(8, 2, seed=1).float()
    first, second = launch(
        compare_step_times, 2, model, nn.functional.mse_loss, inputs, targets, 1, 6, deadline_s=DEADLINE_S
    )
    assert str(first) == str(second)
    assert first.baseline == "1 process"
    assert first["2 processes"].ratio > 0
    assert first.num_blocks == 6
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), kept, strict=True))


def test_the_same_file_runs_under_torchrun(tmp_path: Path) -> None:
    """The worker that ``launch`` starts above is started here by torch's own launcher, as a script."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(workers.__file__), str(tmp_path)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_torchrun = torch.load(tmp_path / "weights.pt", weights_only=True)
    by_launch = launch(workers.train_example, 2, deadline_s=DEADLINE_S)
    assert torch.equal(by_torchrun, by_launch[0])
    assert torch.equal(by_torchrun, by_launch[1])
