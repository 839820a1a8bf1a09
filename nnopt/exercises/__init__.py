"""Checkers for the reader's own code: each answers in one sentence."""

from ._verdict import Verdict as Verdict
from .claims import check_decision_rule as check_decision_rule
from .descent import check_stability_edge as check_stability_edge
from .evaluate import check_optimism as check_optimism
from .losses import check_loss_test as check_loss_test

__all__ = [
    "Verdict",
    "check_decision_rule",
    "check_loss_test",
    "check_optimism",
    "check_stability_edge",
]
