"""Distillation: small networks that learn from the answers of larger ones."""

from .soft_targets import ask_teacher as ask_teacher
from .soft_targets import distillation_loss as distillation_loss
from .soft_targets import require_soft_target_loss as require_soft_target_loss
from .soft_targets import require_soft_teacher as require_soft_teacher
from .soft_targets import soft_target_loss as soft_target_loss

__all__ = [
    "ask_teacher",
    "distillation_loss",
    "require_soft_target_loss",
    "require_soft_teacher",
    "soft_target_loss",
]
