"""Names for wrong soft-target losses, found by their gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["name_mistake", "slope"]


def slope(loss: Tensor, student: Tensor) -> Tensor:
    """Return the gradient for the student's logits, zeros if there is none."""
    if not loss.requires_grad:
        return torch.zeros_like(student)
    return torch.autograd.grad(loss, student, materialize_grads=True)[0]


def name_mistake(found: Tensor, right: Tensor, student: Tensor, teacher: Tensor, temperature: float) -> str | None:
    """Say in words why a gradient is not the right one; None if it is, up to float32."""
    if torch.allclose(found, right, rtol=1e-4, atol=1e-5 * float(right.abs().max())):
        return None
    factor = _factor(found, right)
    if factor is not None:
        return _size_mistake(factor, student.shape, temperature)
    with torch.enable_grad():
        return _direction_mistake(found, student, teacher, temperature)


def _size_mistake(factor: float, shape: torch.Size, temperature: float) -> str:
    """Name what multiplies the right gradient by ``factor``."""
    num_rows, num_classes = shape
    causes = {
        "T² is missing": temperature**-2,
        "the factor is T instead of T²": 1 / temperature,
        "it is averaged over the classes, too (KLDivLoss's default)": 1 / num_classes,
        "it is averaged over the classes, too (KLDivLoss's default), and T² is missing": temperature**-2 / num_classes,
        "it is summed over the rows": num_rows,
        "it is summed over the rows, and T² is missing": num_rows * temperature**-2,
        "the sign is wrong": -1.0,
    }
    known = (name for name, value in causes.items() if abs(factor / value - 1) < 1e-4)
    return next(known, f"it is {factor:.4g} times as large")


def _direction_mistake(found: Tensor, z: Tensor, v: Tensor, temperature: float) -> str:
    """Name the wrong loss whose gradient points where ``found`` does."""
    t = temperature
    wrong = {
        "student and teacher are exchanged": _divergence(z / t, v / t),
        "the temperature divides the teacher's logits only": _divergence(v / t, z),
        "the temperature divides the student's logits only": _divergence(v, z / t),
        "no temperature is used": _divergence(v, z),
        "a softmax is applied to the teacher before the loss": _divergence(v.softmax(1) / t, z / t),
        "a softmax is applied to the student before the loss": _divergence(v / t, z.softmax(1) / t),
        "a softmax is applied to both sides before the loss": _divergence(v.softmax(1) / t, z.softmax(1) / t),
        "KLDivLoss is given the student's logits, not log-probabilities": -((v / t).softmax(1) * z).sum(),
        "KLDivLoss is given the student's probabilities, not their logarithms": -(
            (v / t).softmax(1) * (z / t).softmax(1)
        ).sum(),
        "KLDivLoss is given the teacher's log-probabilities without log_target": -(
            (v / t).log_softmax(1) * (z / t).log_softmax(1)
        ).sum(),
        "the softmax runs over the rows": _divergence(v.T / t, z.T / t),
        "the teacher's answers are made labels": F.cross_entropy(z, v.argmax(1)),
    }
    known = (name for name, loss in wrong.items() if (_factor(found, slope(loss, z)) or 0.0) > 0)
    return next(known, "it points in another direction")


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(softmax(teacher) ‖ softmax(student)), mean over rows, at whatever scale the logits have."""
    target = teacher.log_softmax(dim=1)
    return (target.exp() * (target - student.log_softmax(dim=1))).sum(dim=1).mean()


def _factor(found: Tensor, right: Tensor) -> float | None:
    """Return r if ``found`` is r times ``right``."""
    factor = float((found * right).sum() / right.square().sum())
    return factor if torch.allclose(found, factor * right, rtol=1e-4, atol=1e-5 * float(found.abs().max())) else None
