"""What a network costs, in exact numbers: parameters, bytes, multiplications, memory: chapter *Cost*.

Nothing here is a time: the same count can take very different times, see *Timing*.
"""

import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nnopt.checks import require_integer, require_non_empty, require_type

from ._counting import Example, as_inputs, forward_pass, storage, tensors, undisturbed
from ._report import Report, Row

__all__ = [
    "activation_bytes",
    "by_layer",
    "file_bytes",
    "forward_bytes",
    "macs",
    "num_parameters",
    "peak_bytes",
    "report",
]


def num_parameters(model: nn.Module, *, nonzero: bool = False) -> int:
    """Count the parameters of a model, tied ones once.

    Args:
        model: any module.
        nonzero: leave out those that are exactly 0.

    Returns:
        Number of scalars; buffers do not count.

    Raises:
        TypeError: ``model`` is no module.
    """
    require_type("model", model, nn.Module)
    return sum(int(p.count_nonzero()) if nonzero else p.numel() for p in model.parameters())


def file_bytes(model: nn.Module) -> int:
    """Return the size of the file that ``torch.save`` makes of the model's state dict.

    Zeros, masks and buffers are in it at full size: 90 % zeros make no byte less.

    Returns:
        Bytes, the archive's own included (about 1 kB, and some 130 bytes per tensor).

    Raises:
        TypeError: ``model`` is no module, or an input no tensor.

    Convention:
        Saved to memory from the CPU: a file's name and a device's name are in the archive too and would
        change the size.
    """
    require_type("model", model, nn.Module)
    content = _saved(model.state_dict())
    if any(isinstance(value, Tensor) and value.device.type != "cpu" for value in model.state_dict().values()):
        content = _saved(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    return len(content)


def macs(model: nn.Module, example: Example) -> int:
    """Count the multiply-accumulate operations of one forward pass in evaluation mode.

    A matrix product (n, k)·(k, m) has nkm; a convolution has one for every output value, kernel tap and
    input channel of the group, taps on the padding included. FLOPs are twice as many.

    Args:
        model: any module; mode, buffers and random state are as before afterwards.
        example: its input, or the tuple of its inputs: the count is for this whole batch.

    Returns:
        Multiply-accumulates of products, convolutions and attention, as torch's own counter sees them.
        Additions, normalizations and activations count nothing.

    Raises:
        ValueError: a layer has weight matrices and torch's counter sees nothing in it (``nn.LSTM``).
        TypeError: ``model`` is no module, or an input no tensor.

    Example:
        >>> macs(torch.nn.Linear(5, 7), torch.zeros(2, 5))
        70
    """
    return forward_pass(model, example)[0]


def activation_bytes(model: nn.Module, example: Example) -> int:
    """Return what autograd keeps of one forward pass in training mode until the backward pass.

    Every storage counts once, also if several operations saved it; parameters and buffers do not count, the
    input does where a layer saved it.

    Args:
        model: any module; mode, buffers and random state are as before afterwards.
        example: its input, or the tuple of its inputs.

    Returns:
        Bytes; proportional to the batch size.

    Raises:
        TypeError: ``model`` is no module, or an input no tensor.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
        >>> activation_bytes(model, torch.zeros(2, 5)) == 4 * 2 * (5 + 7)
        True
    """
    require_type("model", model, nn.Module)
    own = {storage(t) for t in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}
    kept: list[Tensor] = []  # a storage that is freed could lend its address to the next one

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        if storage(tensor) not in own:
            saved[storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with undisturbed(model, training=True), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        outputs = model(*as_inputs(example))
    del outputs
    return sum(saved.values())


def forward_bytes(model: nn.Module, example: Example) -> int:
    """Return the largest input and output that one layer needs at the same time.

    max over layers of (input + output bytes): what a plain forward pass needs beside the parameters if each
    layer's input is freed after it. A shortcut that waits for its addition comes on top.

    Args:
        model: any module; mode, buffers and random state are as before afterwards.
        example: its input, or the tuple of its inputs.

    Returns:
        Bytes; proportional to the batch size.

    Raises:
        TypeError: ``model`` is no module, or an input no tensor.
    """
    return max((layer["held_bytes"] for layer in forward_pass(model, example)[1].values()), default=0)


def peak_bytes(model: nn.Module, example: Example, *, state_copies: int = 0) -> int:
    """Return the memory of one training step: measured on CUDA, by formula on a CPU.

    parameters · (2 + ``state_copies``) + buffers + saved activations: the weights, their gradients, what
    the optimizer keeps for each weight, and what autograd keeps.

    Args:
        model: any module; its gradients stay as they are.
        example: its input, or the tuple of its inputs.
        state_copies: tensors that the optimizer keeps per parameter: 0 for SGD, 1 with momentum, 2 for Adam.

    Returns:
        Bytes. On CUDA the allocator's peak during forward and backward pass, above what other tensors
        take, with the optimizer's state by formula.

    Raises:
        ValueError: ``state_copies`` is negative.
        TypeError: ``model`` is no module, an input no tensor, or ``state_copies`` no integer.
    """
    require_type("model", model, nn.Module)
    require_integer("state_copies", state_copies, minimum=0)
    weights = sum(p.nbytes for p in model.parameters())
    held = weights + sum(b.nbytes for b in model.buffers())
    devices = {p.device for p in model.parameters()}
    if any(device.type == "cuda" for device in devices):
        return held + weights * state_copies + _measured_cuda_bytes(model, example, devices)
    return held + weights * (1 + state_copies) + activation_bytes(model, example)


def by_layer(model: nn.Module, example: Example) -> Report:
    """Return one row per layer that has no layers inside: where each cost lies.

    Args:
        model: any module; mode, buffers and random state are as before afterwards.
        example: its input, or the tuple of its inputs.

    Returns:
        Rows with layer, kind, parameters, macs and output_bytes, in the order of the first calls; a layer
        that is called twice adds up its MACs and outputs.

    Raises:
        ValueError: a layer cannot be counted, see :func:`macs`.
        TypeError: ``model`` is no module, or an input no tensor.
    """
    layers = forward_pass(model, example)[1]
    rows: list[Row] = [
        {
            "layer": name,
            "kind": type(model.get_submodule(name)).__name__,
            "parameters": num_parameters(model.get_submodule(name)),
            "macs": counted["macs"],
            "output_bytes": counted["output_bytes"],
        }
        for name, counted in layers.items()
    ]
    return Report(tuple(rows), f"Layers, for an input of {_shapes(example)}")


def report(
    models: nn.Module | Mapping[str, nn.Module],
    example: Example,
    *,
    quality: Mapping[str, float | tuple[float, float, float]] | None = None,
    quality_name: str = "quality",
) -> Report:
    """Return the table of costs that closes a chapter: exact, and the same at every run.

    Args:
        models: one model, or several by name.
        example: an input, or the tuple of inputs, that all of them take.
        quality: by the same names a number, or (value, low, high) with its interval.
        quality_name: what the number is, such as "accuracy".

    Returns:
        A table that a notebook shows; ``rows`` holds a dictionary per model with model, quality,
        quality_low, quality_high (None where not given), parameters, nonzero_parameters, file_bytes, macs,
        activation_bytes and forward_bytes.

    Raises:
        ValueError: there is no model, the names of ``quality`` are others, or a layer cannot be counted.
        TypeError: something is no module, or an input no tensor.

    Convention:
        Latency is not in it, since no two runs agree on it: compare with
        :func:`nnopt.measurement.timing.compare`.
    """
    named = {type(models).__name__: models} if isinstance(models, nn.Module) else dict(models)
    require_non_empty("models", named)
    if quality is not None and set(quality) != set(named):
        raise ValueError(f"quality must have the names {sorted(named)}, got {sorted(quality)}")
    rows = []
    for name, model in named.items():
        total, layers = forward_pass(model, example)
        value = None if quality is None else quality[name]
        middle, low, high = value if isinstance(value, tuple) else (value, None, None)
        row: Row = {
            "model": name,
            "quality": middle,
            "quality_low": low,
            "quality_high": high,
            "parameters": num_parameters(model),
            "nonzero_parameters": num_parameters(model, nonzero=True),
            "file_bytes": file_bytes(model),
            "macs": total,
            "activation_bytes": activation_bytes(model, example),
            "forward_bytes": max((layer["held_bytes"] for layer in layers.values()), default=0),
        }
        rows.append(row)
    return Report(tuple(rows), f"Cost, for an input of {_shapes(example)}", quality_name, is_cost=True)


def _measured_cuda_bytes(model: nn.Module, example: Example, devices: set[torch.device]) -> int:
    parameters = [p for p in model.parameters() if p.requires_grad]
    for device in devices:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    inputs = as_inputs(example)
    before = sum(torch.cuda.memory_allocated(device) for device in devices)
    with undisturbed(model, training=True), torch.enable_grad():
        total = torch.stack([t.float().sum() for t in tensors(model(*inputs))]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    peak = sum(torch.cuda.max_memory_allocated(device) for device in devices)
    del gradients
    return peak - before


def _saved(state: Mapping[str, object]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _shapes(example: Example) -> str:
    return " and ".join(str(tuple(t.shape)) for t in as_inputs(example))
