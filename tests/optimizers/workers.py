"""What the tests run in two processes: importable, and light to import."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnopt import optimizers as room

__all__ = ["MAKERS", "train_with_every_class"]

Make = Callable[..., torch.optim.Optimizer]

MAKERS: dict[str, Make] = {
    "Lion": lambda params: room.Lion(params, lr=0.01, weight_decay=0.1),
    "ScheduleFreeAdamW": lambda params: room.ScheduleFreeAdamW(params, lr=0.01, weight_decay=0.1),
    "Muon": lambda params: room.Muon(params, lr=0.01, dtype=None, fallback="others"),
    "SOAP": lambda params: room.SOAP(params, lr=0.01, precondition_every=3),
    "Shampoo": lambda params: room.Shampoo(params, lr=0.01, precondition_every=3),
    "SharpnessAware": lambda params: room.SharpnessAware(torch.optim.SGD(params, lr=0.1, momentum=0.9), radius=0.1),
    "flat": lambda params: room.flat(torch.optim.AdamW(params, lr=0.01, fused=True)),
    "flat Lion": lambda params: room.flat(room.Lion(params, lr=0.01)),
    "SharpnessAware, flat": lambda params: room.SharpnessAware(room.flat(torch.optim.AdamW(params)), radius=0.1),
}


def network() -> nn.Module:
    """Return the network that every run starts from."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def train(model: nn.Module, optimizer: Any, rows: Tensor, targets: Tensor) -> Tensor:
    """Take six steps on the same rows, and return all weights as one vector."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = (model(rows) - targets).square().mean()
        loss.backward()
        return loss

    for _ in range(6):
        optimizer.step(closure)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def train_with_every_class() -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return for each class the weights of this rank and those of one process, for several ways to set it up.

    Each rank has its share of the rows, and DistributedDataParallel averages the gradients: as copies or as views of
    its buckets, and made before or after the optimizer.
    """
    generator = torch.Generator().manual_seed(1)
    rows, targets = (torch.randn(8, n, generator=generator, dtype=torch.float64) for n in (6, 3))
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, make in MAKERS.items():
        alone = network()
        wanted = train(alone, make(alone.parameters()), rows, targets)
        for as_views in (False, True):
            for optimizer_first in (False, True):
                model = network()
                optimizer = make(model.parameters()) if optimizer_first else None
                replica = DistributedDataParallel(model, gradient_as_bucket_view=as_views)
                optimizer = make(model.parameters()) if optimizer is None else optimizer
                weights = train(replica, optimizer, rows[mine], targets[mine])
                found.setdefault(name, []).append((weights, wanted))
    return found
