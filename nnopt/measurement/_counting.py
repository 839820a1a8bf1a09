"""One forward pass, watched: what every layer multiplies, returns and holds, the model left as it was."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nnopt.checks import require_type

__all__ = ["Example", "as_inputs", "forward_pass", "storage", "tensors", "undisturbed"]

Example: TypeAlias = Tensor | tuple[Tensor, ...]
"""One input of a model, or the tuple of its inputs."""

# layers whose parameters of two or more dimensions multiply nothing by a matrix
_NO_PRODUCTS = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)


def forward_pass(model: nn.Module, example: Example) -> tuple[int, dict[str, dict[str, int]]]:
    """Run one forward pass; return its MACs, and by leaf layer macs, output_bytes and held_bytes."""
    require_type("model", model, nn.Module)
    layers: dict[str, dict[str, int]] = {}
    handles = []
    with FlopCounterMode(display=False) as counter:
        started: dict[str, int] = {}

        def hooks(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
            def before(layer: nn.Module, inputs: object) -> None:
                started[name] = counter.get_total_flops()

            def after(layer: nn.Module, inputs: object, outputs: object) -> None:
                counted = (counter.get_total_flops() - started[name]) // 2
                if counted == 0:
                    _require_countable(name, layer)
                sizes = {storage(t): t.untyped_storage().nbytes() for t in tensors((inputs, outputs))}
                entry = layers.setdefault(name, {"macs": 0, "output_bytes": 0, "held_bytes": 0})
                entry["macs"] += counted
                entry["output_bytes"] += sum(t.nbytes for t in tensors(outputs))
                entry["held_bytes"] = max(entry["held_bytes"], sum(sizes.values()))

            return before, after

        for name, layer in model.named_modules():
            if not any(True for _ in layer.children()):
                before, after = hooks(name)
                handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
        try:
            # evaluation mode, but with gradients: without them nn.TransformerEncoderLayer takes a fused
            # path in which torch's counter sees nothing
            with undisturbed(model, training=False), torch.enable_grad():
                model(*as_inputs(example))
        finally:
            for handle in handles:
                handle.remove()
        return counter.get_total_flops() // 2, layers


def _require_countable(name: str, layer: nn.Module) -> None:
    has_matrix = any(p.ndim >= 2 for p in layer.parameters(recurse=False))
    if has_matrix and not isinstance(layer, _NO_PRODUCTS):
        raise ValueError(
            f"model must have layers that torch's counter knows, got {type(layer).__name__} {name!r}, "
            "in which it saw no product"
        )


@contextmanager
def undisturbed(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set the mode for a pass; afterwards modes, buffers and random states are what they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    model.train(training)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def as_inputs(example: Example) -> tuple[Tensor, ...]:
    """Return the arguments of a call of the model; refuse what is no tensor.

    A batch that is a view of a whole dataset gets memory of its own: the rest of the dataset is not the model's.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    for tensor in inputs:
        require_type("example", tensor, Tensor)
    return tuple(t.clone() if t.untyped_storage().nbytes() > t.nbytes else t for t in inputs)


def storage(tensor: Tensor) -> int:
    """Return the address of the memory that a tensor is a view of."""
    return tensor.untyped_storage().data_ptr()


def tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
