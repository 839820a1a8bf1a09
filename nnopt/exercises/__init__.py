"""Checkers for the reader's own code: each answers in one sentence."""

from ._verdict import Verdict as Verdict
from .claims import check_decision_rule as check_decision_rule
from .descent import check_stability_edge as check_stability_edge

__all__ = ["Verdict", "check_decision_rule", "check_stability_edge"]
