"""Many parameters in one tensor, and their gradients in another."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Buffer"]

# every piece starts at a multiple of this many numbers, so that vector instructions find it aligned
_ALIGNMENT = 16


@dataclass
class Buffer:
    """Parameters of one group, device and dtype, in one tensor, and their gradients in another."""

    parameters: list[Tensor]
    whole: Tensor
    gradient: Tensor
    gradients: list[Tensor]
    addresses: list[int]

    @classmethod
    def of(cls, parameters: list[Tensor]) -> "Buffer":
        """Return a buffer that the parameters do not live in yet."""
        size = sum(map(_padded, parameters))
        whole = torch.zeros(size, dtype=parameters[0].dtype, device=parameters[0].device)
        buffer = cls(parameters, whole, torch.zeros_like(whole), [], [])
        buffer.gradients = buffer.cut(buffer.gradient)
        return buffer

    @torch.no_grad()
    def fill(self) -> None:
        """Move the parameters and their gradients in."""
        for parameter, piece, gradient in zip(self.parameters, self.cut(self.whole), self.gradients, strict=True):
            piece.copy_(parameter.detach())
            parameter.data = piece
            if parameter.grad is not None:
                gradient.copy_(parameter.grad)
                parameter.grad = gradient
        self.addresses = [parameter.data_ptr() for parameter in self.parameters]

    def cut(self, whole: Tensor) -> list[Tensor]:
        """Return the pieces of a tensor as long as the buffer, in the shapes of the parameters."""
        pieces, start = [], 0
        for parameter in self.parameters:
            pieces.append(whole[start : start + parameter.numel()].view(parameter.shape))
            start += _padded(parameter)
        return pieces

    def elsewhere(self) -> list[int] | None:
        """Return which gradients lie elsewhere, or None if there is no gradient at all.

        Raises:
            ValueError: a parameter has left the buffer, or some, but not all, have no gradient.
            TypeError: a gradient is sparse.
        """
        elsewhere, missing = [], 0
        for index, parameter in enumerate(self.parameters):
            if parameter.data_ptr() != self.addresses[index] and parameter.numel():
                raise ValueError(
                    f"parameters must stay in the buffer, got parameter {index} of shape {tuple(parameter.shape)} "
                    "elsewhere: move the model first and make the flat optimizer after it"
                )
            gradient = parameter.grad
            if gradient is not self.gradients[index]:
                elsewhere.append(index)
                missing += gradient is None
                if gradient is not None and gradient.layout is not torch.strided:
                    raise TypeError(f"gradients must be dense, got layout {gradient.layout}")
        if 0 < missing < len(self.parameters):
            raise ValueError(
                f"all parameters must have a gradient, got {missing} of {len(self.parameters)} without: "
                "use zero_grad of the flat optimizer"
            )
        return None if missing else elsewhere


def _padded(parameter: Tensor) -> int:
    return -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
