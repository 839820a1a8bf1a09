"""Neural-network optimization by experiment: the package behind the book.

Rooms are loaded when they are first used, so that ``import nnopt`` costs nothing.
"""

from importlib import import_module
from types import ModuleType

from ._version import __version__ as __version__

_ROOMS = (
    "data",
    "distillation",
    "distributed",
    "exercises",
    "measurement",
    "merging",
    "models",
    "optimizers",
    "plots",
    "pruning",
    "quantization",
    "regularization",
    "training",
)

__all__ = ["__version__"]


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
