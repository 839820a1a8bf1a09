"""Write the inventories that let docstrings link to Python, NumPy and torch without asking a network.

Only what our signatures and docstrings name is listed. ``python book/_ext/inventories.py`` writes the
files in ``book/_inventories``; they are committed.
"""

import sys
import zlib
from pathlib import Path

from chapters import ROOT

from nnopt.storage import write_atomic

__all__ = ["inventory", "write"]

FUNCTIONS, EXCEPTIONS, STDTYPES = "library/functions.html", "library/exceptions.html", "library/stdtypes.html"
ABC, TYPING, PATHLIB = "library/collections.abc.html", "library/typing.html", "library/pathlib.html"

PYTHON = {
    "py:class": {
        **dict.fromkeys(("bool", "float", "int", "object", "type"), FUNCTIONS),
        **dict.fromkeys(("bytes", "complex", "dict", "frozenset", "list", "set", "str", "tuple"), STDTYPES),
        **{
            f"collections.abc.{name}": ABC
            for name in (
                "Callable", "Collection", "Generator", "Hashable", "Iterable", "Iterator", "Mapping",
                "MutableMapping", "Sequence", "Sized",
            )
        },
        "collections.OrderedDict": "library/collections.html",
        "fractions.Fraction": "library/fractions.html",
        "pathlib.Path": PATHLIB,
        "pathlib._local.Path": PATHLIB,
        "types.ModuleType": "library/types.html",
        "typing.BinaryIO": TYPING,
        "typing.Protocol": TYPING,
    },
    "py:data": {
        **dict.fromkeys(("typing.Any", "typing.Literal", "typing.NoReturn", "typing.Optional"), TYPING),
        **dict.fromkeys(("typing.TypeAlias", "typing.Union"), TYPING),
        **dict.fromkeys(("None", "True", "False", "Ellipsis"), "library/constants.html"),
    },
    "py:obj": {"None": "library/constants.html"},
    "py:exception": dict.fromkeys(
        (
            "ArithmeticError", "FileNotFoundError", "ImportError", "KeyError", "OSError", "RuntimeError",
            "StopIteration", "TimeoutError", "TypeError", "ValueError", "AssertionError",
        ),
        EXCEPTIONS,
    ),
}  # fmt: skip

NUMPY = {
    "py:class": {
        "numpy.dtype": "reference/generated/numpy.dtype.html",
        "numpy.float64": "reference/arrays.scalars.html",
        "numpy.ndarray": "reference/generated/numpy.ndarray.html",
        "numpy.random.Generator": "reference/random/generator.html",
    },
    "py:data": {"numpy.typing.NDArray": "reference/typing.html"},
}

TORCH = {
    "py:class": {
        "torch._C.Generator": "generated/torch.Generator.html",
        "torch.Generator": "generated/torch.Generator.html",
        "torch.Tensor": "tensors.html",
        "torch.device": "tensor_attributes.html",
        "torch.dtype": "tensor_attributes.html",
        "torch.nn.Module": "generated/torch.nn.Module.html",
        "torch.nn.modules.module.Module": "generated/torch.nn.Module.html",
        "torch.nn.modules.conv.Conv2d": "generated/torch.nn.Conv2d.html",
        "torch.nn.Sequential": "generated/torch.nn.Sequential.html",
        "torch.nn.modules.container.Sequential": "generated/torch.nn.Sequential.html",
        "torch.nn.Parameter": "generated/torch.nn.parameter.Parameter.html",
        "torch.nn.parameter.Parameter": "generated/torch.nn.parameter.Parameter.html",
        "torch.optim.Optimizer": "optim.html",
        "torch.optim.optimizer.Optimizer": "optim.html",
        "torch.optim.lr_scheduler.LRScheduler": "optim.html",
        "torch.distributed.ProcessGroup": "distributed.html",
        "torch.distributed.distributed_c10d.ProcessGroup": "distributed.html",
        "torch.utils.data.DataLoader": "data.html",
        "torch.utils.data.dataloader.DataLoader": "data.html",
        "torch.utils.data.TensorDataset": "data.html",
        "torch.utils.data.dataset.TensorDataset": "data.html",
    },
    "py:function": {
        "torch.func.vmap": "generated/torch.func.vmap.html",
        "torch.load": "generated/torch.load.html",
        "torch.nn.functional.cross_entropy": "generated/torch.nn.functional.cross_entropy.html",
        "torch.nn.functional.mse_loss": "generated/torch.nn.functional.mse_loss.html",
        "torch.nn.utils.clip_grad_norm_": "generated/torch.nn.utils.clip_grad_norm_.html",
        "torch.save": "generated/torch.save.html",
    },
}


def inventory(project: str, entries: dict[str, dict[str, str]]) -> bytes:
    """Return the file that Sphinx calls ``objects.inv``, version 2."""
    header = (
        "# Sphinx inventory version 2\n"
        f"# Project: {project}\n"
        "# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    lines = [
        # the page may hold several names: the anchor is the name itself ("$")
        f"{name} {role} 1 {page}#$ -\n"
        for role, pages in sorted(entries.items())
        for name, page in sorted(pages.items())
    ]
    return header.encode() + zlib.compress("".join(lines).encode(), 9)


def write(root: Path = ROOT) -> None:
    """Write the files."""
    folder = root / "book" / "_inventories"
    write_atomic(folder / "python.inv", inventory("Python", PYTHON))
    write_atomic(folder / "numpy.inv", inventory("NumPy", NUMPY))
    write_atomic(folder / "torch.inv", inventory("torch", TORCH))


if __name__ == "__main__":
    write()
    sys.exit(0)
