"""Functions that the tests run in other processes: importable, and light to import."""

import copy
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnopt.distributed import average_gradients, compare_step_times, replica_spread


def facts(value: object) -> dict[str, object]:
    """Return what a rank sees of itself, and the argument."""
    return {
        "rank": dist.get_rank(),
        "world_size": dist.get_world_size(),
        "variables": [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")],
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "marker": os.environ.get("NNOPT_TEST_MARKER"),
        "folder": os.getcwd(),
        "backend": dist.get_backend(),
        "argument": value,
    }


def add(first: Tensor, second: Tensor) -> Tensor:
    """Return (r + 1) · (first + second), summed over the ranks."""
    total = (dist.get_rank() + 1) * (first + second)
    dist.all_reduce(total)
    return total


def on_device(device: str) -> tuple[str, Tensor]:
    """Return the backend for this device and the sum over the ranks of their number, computed there."""
    number = torch.full((2,), float(dist.get_rank()), device=device)
    dist.all_reduce(number)
    return dist.get_backend(), number.cpu()


def fail_in_rank_1() -> None:
    """Raise in one rank while the others wait for it."""
    if dist.get_rank() == 1:
        raise ValueError("the worm in rank 1")
    dist.barrier()


def die_in_rank_1() -> None:
    """End one process by a signal that it cannot catch, while the others wait for it."""
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def leave_rank_1_alone() -> None:
    """Let one rank wait for a collective that the other never calls, and the other for nothing at all."""
    if dist.get_rank() == 1:
        dist.barrier()
    threading.Event().wait()


def call_different_collectives() -> None:
    """Two ranks, two collectives."""
    numbers = torch.ones(3)
    if dist.get_rank() == 0:
        dist.all_reduce(numbers)
    else:
        dist.broadcast(numbers, 0)


def exit_early() -> NoReturn:
    """Leave without a result."""
    sys.exit(3)


def return_a_lambda() -> object:
    """Return what cannot be pickled."""
    return lambda: None


def hold_pipe(path: str) -> None:
    """Write this rank to a named pipe and wait for ever: the pipe ends when the last process that holds it has."""
    with open(path, "w") as pipe:
        pipe.write(f"{dist.get_rank()}\n")
        pipe.flush()
        threading.Event().wait()


Batches = list[tuple[Tensor, Tensor]]


def flat(model: nn.Module) -> Tensor:
    """Return all parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def train(model: nn.Module, batches: Batches, parts: list[int], way: str, rank: int) -> Tensor:
    """Train a copy of the model on this rank's part of each batch, and return its weights."""
    model = copy.deepcopy(model)
    replica = DistributedDataParallel(model) if "DDP" in way else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for inputs, targets in batches:
        mine = inputs.split(parts)[rank], targets.split(parts)[rank]
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(replica(mine[0]), mine[1])
        if way == "DDP with scaled loss":
            loss = loss * (len(parts) * parts[rank] / sum(parts))
        loss.backward()
        if way == "averaged":
            average_gradients(model.parameters(), num_rows=parts[rank])
        optimizer.step()
    return flat(model)


def train_all_ways(model: nn.Module, batches: Batches) -> dict[str, Any]:
    """Train in every way on even and uneven parts; return weights and the spread over the ranks."""
    answers: dict[str, Any] = {}
    for title, parts in (("even", [6, 6]), ("uneven", [1, 11])):
        for way in ("alone", "averaged", "DDP", "DDP with scaled loss"):
            weights = train(model, batches, parts, way, dist.get_rank())
            answers[f"{title}, {way}"] = weights
            answers[f"{title}, {way}: spread"] = replica_spread([weights])
    return answers


def refusal(call: Callable[[], object]) -> str:
    """Return the message of the error that a call raises."""
    try:
        call()
    except (ValueError, TypeError) as error:
        return str(error)
    return "not refused"


def special_cases() -> dict[str, Any]:
    """Return what the functions of the chapter do at their limits, in every rank."""
    rank = dist.get_rank()
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([4.0, 4.0]) if rank == 0 else torch.full((2,), float("nan"))
    average_gradients([weight], num_rows=3 if rank == 0 else 0)
    missing = nn.Parameter(torch.zeros(1))
    missing.grad = torch.tensor([3.0]) if rank == 0 else None
    average_gradients([missing], num_rows=2)
    mixed = [nn.Parameter(torch.zeros(1, dtype=d)) for d in (torch.float32, torch.float64, torch.float32)]
    for number, parameter in enumerate(mixed):
        parameter.grad = torch.full_like(parameter, 1.0 + 2 * rank + number // 2 * 2)
    average_gradients(mixed, num_rows=5)
    grads = [parameter.grad for parameter in mixed if parameter.grad is not None]
    first, before = float(grads[0]), float(grads[2])
    grads[0].zero_()
    frozen = torch.zeros(2)
    row = torch.ones(1, 2)
    step_times = partial(compare_step_times, nn.Linear(2, 2), nn.functional.mse_loss)
    return {
        "a rank without rows": weight.grad.tolist(),
        "a gradient of None counts as zero": [] if missing.grad is None else missing.grad.tolist(),
        "two dtypes": [
            [str(grads[0].dtype), first],
            [str(grads[1].dtype), float(grads[1])],
            [str(grads[2].dtype), before],
        ],
        "the gradient is its own memory": float(grads[2]) == before,
        "spread of equal replicas": replica_spread([torch.arange(3.0), torch.ones(2, 2).half()]),
        "spread of one buffer": replica_spread([torch.ones(2), torch.tensor(3 * rank)]),
        "spread with NaN": str(replica_spread([torch.tensor([1.0, float("nan") if rank else 2.0])])),
        "refused": [
            refusal(lambda: average_gradients([weight], num_rows=-1)),
            refusal(lambda: average_gradients([weight], num_rows=1.0)),  # type: ignore[arg-type]
            refusal(lambda: average_gradients([weight], num_rows=0)),
            refusal(lambda: average_gradients([frozen], num_rows=1)),
            refusal(lambda: replica_spread([])),
            refusal(lambda: step_times(row, row)),
            refusal(lambda: step_times(torch.ones(2, 2), torch.ones(2, 2), 0)),
            refusal(lambda: step_times(torch.ones(2, 2), torch.ones(2, 2), 1, 5)),
        ],
    }


def train_example() -> Tensor:
    """Train a small model on data that every rank can make, each on its part."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(4, 2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    draw = [torch.randn(9, width, generator=generator, dtype=torch.float64) for _ in range(20) for width in (4, 2)]
    batches = list(zip(draw[::2], draw[1::2], strict=True))
    return train(model, batches, [2, 7], "averaged", dist.get_rank())


def main(folder: str) -> None:
    """Be one rank under ``torchrun``."""
    dist.init_process_group("gloo")
    weights = train_example()
    if dist.get_rank() == 0:
        torch.save(weights, os.path.join(folder, "weights.pt"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
