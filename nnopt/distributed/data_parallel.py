"""Data parallelism: every process has the whole model and a part of the batch.

Chapter: ``distributed/data_parallel``.
"""

import copy
import itertools
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnopt.checks import require_integer, require_non_empty, require_positive, require_same_shape
from nnopt.measurement import Comparison, compare
from nnopt.types import Batch, DeviceLike, LossFn

__all__ = [
    "average_gradients",
    "combine_gradients",
    "compare_step_times",
    "replica_spread",
    "ring_bytes",
    "shard_rows",
]


def combine_gradients(gradients: Sequence[Tensor], num_rows: Sequence[int]) -> Tensor:
    r"""Return the gradient of the mean over all rows from the gradients of the means over parts of them.

    .. math:: g = \sum_r \frac{n_r}{n}\, g_r, \qquad n = \sum_r n_r

    Args:
        gradients: g_r, one per part, all of one shape; ignored, NaN included, for a part without rows.
        num_rows: n_r ≥ 0, how many rows each part has; one is above 0.

    Returns:
        g, the same shape and dtype.

    Raises:
        ValueError: the lists differ in length, shapes differ, a count is negative or all are 0.
        TypeError: a count is not an integer.

    Convention:
        The plain mean over the parts is another number unless all parts have as many rows.

    Example:
        >>> combine_gradients([torch.tensor([1.0]), torch.tensor([5.0])], [3, 1])
        tensor([2.])
    """
    require_non_empty("gradients", gradients)
    if len(gradients) != len(num_rows):
        raise ValueError(f"num_rows must be one per gradient, got {len(num_rows)} for {len(gradients)}")
    for number, (gradient, count) in enumerate(zip(gradients, num_rows, strict=True)):
        require_integer(f"num_rows[{number}]", count, minimum=0)
        require_same_shape("gradients[0]", gradients[0], f"gradients[{number}]", gradient)
    total = sum(num_rows)
    require_positive("the sum of num_rows", total)
    shares = [gradient * (count / total) for gradient, count in zip(gradients, num_rows, strict=True) if count]
    return torch.stack(shares).sum(dim=0)


def average_gradients(parameters: Iterable[Tensor], *, num_rows: int, group: dist.ProcessGroup | None = None) -> None:
    r"""Replace each ``grad`` by that of the mean over the rows of all ranks, in place.

    Between ``loss.backward()`` and ``optimizer.step()``, in every rank. One collective for the counts and one for
    all gradients of a dtype.

    .. math:: g \leftarrow \sum_r \frac{n_r}{n}\, g_r

    Args:
        parameters: of the model, in the same order in every rank; those that need no gradient are left out, and a
            ``grad`` of None counts as 0.
        num_rows: n_r ≥ 0, rows of this rank's batch, over which its loss is the mean.
        group: of processes; None takes all.

    Raises:
        ValueError: ``num_rows`` is negative, or 0 in every rank; no parameter needs a gradient.
        TypeError: ``num_rows`` is not an integer.

    Convention:
        ``DistributedDataParallel`` takes the plain mean over the ranks: equal only if all have as many rows. There,
        multiply the loss by p n_r / n before ``backward``.

    Source:
        Equal to :func:`combine_gradients` of the ranks' gradients.
    """
    require_integer("num_rows", num_rows, minimum=0)
    owners = [parameter for parameter in parameters if parameter.requires_grad]
    require_non_empty("parameters that need a gradient", owners)
    total = torch.tensor(num_rows, device=owners[0].device)
    dist.all_reduce(total, group=group)
    require_positive("the sum of num_rows", int(total))
    share = num_rows / int(total)
    for _, same in itertools.groupby(sorted(owners, key=lambda p: str(p.dtype)), key=lambda p: p.dtype):
        alike = list(same)
        # before the sum: nothing overflows in half precision; and 0 · NaN of an empty batch would be NaN
        pieces = [
            torch.zeros_like(p).flatten() if p.grad is None or num_rows == 0 else p.grad.flatten() * share
            for p in alike
        ]
        buffer = torch.cat(pieces)
        dist.all_reduce(buffer, group=group)
        for parameter, piece in zip(alike, buffer.split([p.numel() for p in alike]), strict=True):
            parameter.grad = piece.view_as(parameter).clone()


@torch.no_grad()
def replica_spread(tensors: Iterable[Tensor], *, group: dist.ProcessGroup | None = None) -> float:
    r"""Return how far the replicas of a model are apart: 0.0 where they are equal in every bit.

    .. math:: \max_i \bigl(\max_r \theta^{(r)}_i - \min_r \theta^{(r)}_i\bigr)

    Args:
        tensors: parameters and, better, buffers too; the same shapes in every rank.
        group: of processes; None takes all.

    Returns:
        The same number in every rank; NaN if a rank has a value that is not finite.

    Raises:
        ValueError: there is no tensor.

    Convention:
        One collective, twice the parameters in float64: call it every hundred steps, not at each.
    """
    pieces = [tensor.detach().flatten().double() for tensor in tensors]
    require_non_empty("tensors", pieces)
    flat = torch.cat(pieces)
    broken = (~torch.isfinite(flat)).any().double().view(1)
    both = torch.cat([flat.nan_to_num(), -flat.nan_to_num(), broken])
    dist.all_reduce(both, op=dist.ReduceOp.MAX, group=group)
    highest, lowest = both[: len(flat)], -both[len(flat) : -1]
    return float("nan") if bool(both[-1]) else float((highest - lowest).max())


def shard_rows(num_rows: int, *, rank: int, world_size: int, epoch: int, seed: int = 0) -> Tensor:
    r"""Return the rows of one rank in one epoch: every row belongs to exactly one rank.

    .. math:: \pi_{r},\, \pi_{r+p},\, \pi_{r+2p}, \dots \qquad \pi = \mathrm{randperm}(N)

    Args:
        num_rows: N ≥ ``world_size``.
        rank: r in [0, p).
        world_size: p ≥ 1.
        epoch: from 0; each has an order of its own, without a call that one may forget.
        seed: the same in every rank.

    Returns:
        int64, on the CPU; the sizes of the ranks' shards differ by at most 1.

    Raises:
        ValueError: a number is out of range.
        TypeError: a number is not an integer.

    Convention:
        Equal to ``DistributedSampler(shuffle=True)`` after ``set_epoch(epoch)`` where p divides N; elsewhere that one
        repeats rows, or with ``drop_last`` leaves some out, so that all shards are equally long.

    Example:
        >>> [len(shard_rows(10, rank=rank, world_size=4, epoch=0)) for rank in range(4)]
        [3, 3, 2, 2]
    """
    require_integer("world_size", world_size, minimum=1)
    require_integer("num_rows", num_rows, minimum=world_size)
    require_integer("rank", rank, minimum=0)
    require_integer("epoch", epoch, minimum=0)
    require_integer("seed", seed, minimum=0)
    if rank >= world_size:
        raise ValueError(f"rank must be < world_size = {world_size}, got {rank}")
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed + epoch))
    return order[rank::world_size].clone()


def ring_bytes(num_bytes: int, world_size: int) -> float:
    r"""Return what each process sends in an all-reduce, by the algorithm that sends least.

    .. math:: 2\,\frac{p-1}{p}\, b

    Args:
        num_bytes: b ≥ 0 of the tensor; of the gradients of a model, those of its parameters.
        world_size: p ≥ 1.

    Returns:
        Bytes sent by each process, and as many received: below 2b for every p.

    Raises:
        ValueError: a number is out of range.
        TypeError: a number is not an integer.

    Source:
        P. Patarasuk and X. Yuan, Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations, 2009.

    Example:
        >>> ring_bytes(1000, 2), ring_bytes(1000, 1)
        (1000.0, 0.0)
    """
    require_integer("num_bytes", num_bytes, minimum=0)
    require_integer("world_size", world_size, minimum=1)
    return 2 * (world_size - 1) / world_size * num_bytes


def compare_step_times(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Tensor,
    targets: Tensor,
    num_steps: int = 10,
    num_blocks: int = 12,
    device: DeviceLike = "cpu",
) -> Comparison:
    """Compare a training step in one process with the same step shared by all processes of the group.

    A worker for :func:`launch`: SGD on the whole batch by rank 0 alone, while the others wait, against
    ``DistributedDataParallel`` with a part of the batch in each rank, in turns as in
    :func:`nnopt.measurement.timing.compare`.

    Args:
        model: copies of it are trained.
        loss_fn: (predictions, targets) -> mean over the batch.
        inputs: (B, ...) the whole batch, at least one row per rank.
        targets: (B, ...).
        num_steps: steps between two looks at the clock; telling the others costs a small message.
        num_blocks: at least 6.
        device: of the models and the batch; ``cuda`` is the current one of each rank.

    Returns:
        The same in every rank; ratios of ``"p processes"`` to the baseline ``"1 process"``, with the control.

    Raises:
        ValueError: a count is out of range, or there are fewer rows than ranks.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    require_integer("num_steps", num_steps, minimum=1)
    require_integer("num_blocks", num_blocks, minimum=6)
    if len(inputs) < world_size:
        raise ValueError(f"inputs must have a row for each of {world_size} ranks, got {len(inputs)}")
    inputs, targets = inputs.to(device), targets.to(device)
    alone = copy.deepcopy(model).to(device)
    replica = DistributedDataParallel(copy.deepcopy(alone))
    part = inputs.tensor_split(world_size)[rank], targets.tensor_split(world_size)[rank]

    def steps(network: nn.Module, batch: Batch) -> None:
        for _ in range(num_steps):
            network.zero_grad()
            loss_fn(network(batch[0]), batch[1]).backward()
            optimizers[network].step()

    optimizers = {network: torch.optim.SGD(network.parameters(), lr=1e-6, fused=True) for network in (alone, replica)}
    go_on = torch.ones(1, device=device)
    if rank:
        while True:
            dist.broadcast(go_on, 0)
            if not go_on:
                break
            steps(replica, part)

    def together() -> None:
        dist.broadcast(go_on, 0)
        steps(replica, part)

    answer: list[Comparison | None] = [None]
    if rank == 0:
        arms = {"1 process": lambda: steps(alone, (inputs, targets)), f"{world_size} processes": together}
        orders = torch.Generator().manual_seed(0)
        answer[0] = compare(
            arms, baseline="1 process", generator=orders, num_blocks=num_blocks, num_threads=None, device=device
        )
        dist.broadcast(torch.zeros(1, device=device), 0)
    dist.broadcast_object_list(answer, src=0)
    assert answer[0] is not None
    return answer[0]
