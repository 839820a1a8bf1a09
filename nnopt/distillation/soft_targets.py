"""A teacher's probabilities as targets, and guards against losses that teach nothing: ``distillation/soft_targets``."""

import torch
from torch import Tensor, nn

from nnopt.checks import (
    require_finite,
    require_fraction,
    require_integer,
    require_non_empty,
    require_positive,
    require_same_shape,
    require_type,
)
from nnopt.training import evaluation_mode, require_logits
from nnopt.types import LossFn

from ._mistakes import name_mistake, slope

__all__ = [
    "ask_teacher",
    "distillation_loss",
    "require_soft_target_loss",
    "require_soft_teacher",
    "soft_target_loss",
]

_UNLABELLED = -100  # torch's index to ignore


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    r"""Return how far the student's softened probabilities are from the teacher's.

    .. math:: J = \frac{T^2}{N} \sum_i \sum_c p_{ic} \log\frac{p_{ic}}{q_{ic}}
              \quad\text{with}\quad p_i = \operatorname{softmax}(v_i / T),\; q_i = \operatorname{softmax}(z_i / T)

    Args:
        student_logits: z (N, C), before any softmax; gets gradients.
        teacher_logits: v (N, C), before any softmax, without gradients; see :func:`ask_teacher`.
        temperature: T > 0, for both sides.

    Returns:
        0-d, ≥ 0, in nats times T²; 0 where the two differ by a constant per row.

    Raises:
        ValueError: the shapes differ or are not (N, C), there is no row, the temperature is not above 0, the
            teacher's logits require gradients, or both are the same tensor.
        TypeError: logits are not floating point.

    Convention:
        Mean over rows, sum over classes: ``kl_div(…, reduction="batchmean")`` times T². The factor T² keeps the
        size of the gradient when T changes, so that a weight beside another loss keeps its meaning. For T → ∞ the
        gradient becomes that of half the squared distance of the centered logits, divided by C.

        Only differences of logits count, so log-probabilities (at temperature 1) may stand in for logits.

    Source:
        G. Hinton, O. Vinyals and J. Dean, Distilling the Knowledge in a Neural Network, arXiv:1503.02531, section 2.

    Example:
        >>> soft_target_loss(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), temperature=2.0)
        tensor(0.4438)
    """
    require_positive("temperature", temperature)
    _require_pair(student_logits, teacher_logits)
    teacher = (teacher_logits / temperature).log_softmax(dim=1)
    student = (student_logits / temperature).log_softmax(dim=1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=1).mean()


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    soft_weight: float,
) -> Tensor:
    r"""Return the weighted sum of soft-target loss and cross-entropy, with rows that may have no label.

    .. math:: J = \alpha\, J_{\text{soft}} + (1 - \alpha)\, \frac{1}{|L|} \sum_{i \in L} -\log q_{i y_i}

    with L the rows that have a label, and q at temperature 1.

    Args:
        student_logits: z (N, C); gets gradients.
        teacher_logits: v (N, C), without gradients.
        targets: int64 (N,), classes in [0, C); -100 marks a row without a label, which counts in the soft part.
        temperature: T > 0.
        soft_weight: α in [0, 1].

    Returns:
        0-d, ≥ 0. The hard part of a batch without any label is 0.

    Raises:
        ValueError: as for :func:`soft_target_loss`; ``targets`` has another shape, or α is outside [0, 1].
        TypeError: ``targets`` are not int64, or logits not floating point.
        IndexError: a target is no class (on a CPU; a GPU stops with its own error).

    Convention:
        The soft part is a mean over all rows, the hard part over the labelled ones: more unlabelled rows in a batch
        make neither weaker.

    Source:
        Hinton, Vinyals and Dean, arXiv:1503.02531, section 2.

    Example:
        >>> z, v = torch.zeros(2, 3), torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> distillation_loss(z, v, torch.tensor([0, -100]), temperature=1.0, soft_weight=0.0)
        tensor(1.0986)
    """
    require_fraction("soft_weight", soft_weight)
    soft = soft_target_loss(student_logits, teacher_logits, temperature=temperature)
    require_type("targets", targets, Tensor)
    if targets.shape != student_logits.shape[:1]:
        raise ValueError(
            f"targets must be (N,) for logits (N, C), got {tuple(targets.shape)} and {tuple(student_logits.shape)}"
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"targets must be int64 class numbers, got {targets.dtype}")
    labelled = targets != _UNLABELLED
    classes = targets.where(labelled, 0)
    surprises = -student_logits.log_softmax(dim=1).gather(1, classes[:, None])[:, 0]
    hard = surprises.where(labelled, 0.0).sum() / labelled.sum().clamp(min=1)
    return soft_weight * soft + (1 - soft_weight) * hard


def ask_teacher(teacher: nn.Module, inputs: Tensor, *, batch_size: int = 1024) -> Tensor:
    """Return the teacher's logits for all inputs: in evaluation mode, without gradients, each row once.

    A teacher that does not change needs to be asked only once: store the answers beside the inputs. (If inputs
    are augmented, ask it for what the student sees.)

    Args:
        teacher: maps (B, ...) to logits (B, C); its modes are as before afterwards.
        inputs: (N, ...), taken to the teacher's device.
        batch_size: rows of one forward pass.

    Returns:
        (N, C) on the teacher's device, without gradients.

    Raises:
        ValueError: there is no row, the teacher returns another number of rows, a value is NaN or infinite, or its
            rows are probabilities: then there is a softmax at its end, and logits are what it had before.
        TypeError: an argument is of another type.

    Example:
        >>> ask_teacher(torch.nn.Flatten(), torch.tensor([[2.0, -1.0]]))
        tensor([[ 2., -1.]])
    """
    require_type("teacher", teacher, nn.Module)
    require_type("inputs", inputs, Tensor)
    require_integer("batch_size", batch_size, minimum=1)
    require_non_empty("inputs", inputs)
    parameter = next(teacher.parameters(), inputs)
    with evaluation_mode(teacher):
        answers = torch.cat([teacher(rows.to(parameter.device)) for rows in inputs.split(batch_size)])
    if answers.ndim != 2 or len(answers) != len(inputs):
        raise ValueError(f"teacher must return (N, C) for N = {len(inputs)} inputs, got {tuple(answers.shape)}")
    require_finite("the teacher's logits", answers)
    _refuse_probabilities("the teacher's logits", answers)
    return answers


def require_soft_teacher(teacher_logits: Tensor, *, temperature: float, minimum: float = 0.01) -> None:
    r"""Refuse a teacher that says no more than a class: at this temperature its targets would be labels.

    .. math:: \frac1N \sum_i \bigl(1 - \max_c p_{ic}\bigr) \ge m

    Predictions that were made targets, and a teacher that is sure of everything it was trained on, both fail. Call
    it once, on the rows that the student will see.

    Args:
        teacher_logits: (N, C), before any softmax.
        temperature: T > 0, at which they will be used.
        minimum: m in [0, 1], mean probability outside the largest.

    Raises:
        ValueError: less than ``minimum`` is outside, the rows are probabilities, a value is NaN or infinite, there
            is no row, or an argument is out of range.

    Example:
        >>> require_soft_teacher(torch.tensor([[6.0, 2.0, 0.0]]), temperature=2.0)
    """
    require_positive("temperature", temperature)
    require_fraction("minimum", minimum)
    _refuse_probabilities("teacher_logits", teacher_logits)
    outside = float(1 - (teacher_logits.detach().double() / temperature).softmax(dim=1).max(dim=1).values.mean())
    if outside < minimum:
        raise ValueError(
            f"teacher_logits must leave at least {minimum:g} of the probability to other classes at temperature "
            f"{temperature:g}, got {outside:.2g}: these targets are labels"
        )


def require_soft_target_loss(loss_fn: LossFn, *, temperature: float) -> None:
    r"""Refuse a soft-target loss whose gradient is another one, and say which mistake makes it so.

    The gradient with respect to the student's logits is compared with

    .. math:: \frac{\partial J}{\partial z_{ic}} = \frac{T}{N} (q_{ic} - p_{ic})

    on a fixed random batch. Cross-entropy with soft targets passes: it has another value and the same gradient.

    Args:
        loss_fn: (student_logits (N, C), teacher_logits (N, C)) -> 0-d; uses ``temperature`` by itself.
        temperature: T > 0, that it uses; not 1, where a missing T² cannot be seen.

    Raises:
        ValueError: the gradient differs, is missing, or the loss is not one number; or T is 1.

    Example:
        >>> require_soft_target_loss(lambda z, v: soft_target_loss(z, v, temperature=4.0), temperature=4.0)
    """
    require_positive("temperature", temperature)
    if temperature == 1:
        raise ValueError("temperature must not be 1, where a missing T² cannot be seen, got 1")
    draw = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(2, 6, 11, generator=draw, dtype=torch.float64)).unbind()
    student.requires_grad_()
    with torch.enable_grad():
        loss = loss_fn(student, teacher)
    if loss.ndim:
        raise ValueError(f"loss_fn must return a 0-d tensor, got shape {tuple(loss.shape)}")
    found = slope(loss, student)
    with torch.enable_grad():
        right = slope(soft_target_loss(student, teacher, temperature=temperature), student)
    if not found.any():
        raise ValueError("loss_fn must move the student, got no gradient for it: is the teacher compared with itself?")
    mistake = name_mistake(found, right, student, teacher, temperature)
    if mistake is not None:
        raise ValueError(f"loss_fn must have the gradient T (q − p) / N at T = {temperature:g}, got another: {mistake}")


def _require_pair(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Refuse logits that are no pair, by what can be seen without looking at values."""
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        require_type(name, logits, Tensor)
        if not logits.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {logits.dtype}")
    if student_logits is teacher_logits:
        raise ValueError("student_logits and teacher_logits must be two tensors, got one compared with itself")
    require_same_shape("student_logits", student_logits, "teacher_logits", teacher_logits)
    if student_logits.ndim != 2:
        raise ValueError(f"student_logits must be (N, C), got shape {tuple(student_logits.shape)}")
    require_non_empty("student_logits", student_logits)
    if teacher_logits.requires_grad:
        raise ValueError(
            "teacher_logits must not require gradients, got a tensor that does: "
            "use ask_teacher, or compute them under torch.no_grad()"
        )


def _refuse_probabilities(name: str, logits: Tensor) -> None:
    require_non_empty(name, logits)
    require_finite(name, logits)
    try:
        require_logits(logits)
    except ValueError as error:
        raise ValueError(f"{name} must be those before the softmax, got rows in [0, 1] that sum to one") from error
