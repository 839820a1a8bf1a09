"""Which device a chapter runs on: ``NNOPT_DEVICE`` is ``auto`` (default), ``cpu`` or ``cuda``."""

import os

import torch

from .checks import require_one_of
from .types import DeviceLike

__all__ = ["available_devices", "default_device", "synchronize"]


def default_device() -> torch.device:
    """Return the device that ``NNOPT_DEVICE`` names, read at call time; ``auto`` takes CUDA where it is.

    Returns:
        ``cpu`` or ``cuda``.

    Raises:
        ValueError: the variable has another value.
        RuntimeError: ``cuda`` is asked for and there is none.
    """
    name = os.environ.get("NNOPT_DEVICE", "auto")
    require_one_of("NNOPT_DEVICE", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("NNOPT_DEVICE is 'cuda', but torch finds no CUDA device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def available_devices() -> list[torch.device]:
    """Return the CPU and, where there is one, the CUDA device: what device-dependent tests run on."""
    return [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])


def synchronize(device: DeviceLike) -> None:
    """Wait until the work queued on ``device`` is done; nothing to do on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
