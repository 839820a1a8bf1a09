"""Checkers for the reader's own code: each answers in one sentence."""

from ._verdict import Verdict as Verdict
from .descent import check_stability_edge as check_stability_edge

__all__ = ["Verdict", "check_stability_edge"]
