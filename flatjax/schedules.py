"""Scoping: schedules by which the coupling gamma grows during training."""

from flatjax._schedules import BalancedScoping, BalancedScopingState, balanced_gamma, scoping
from flatjax._strength import meeting, stability_limit

__all__ = [
    "BalancedScoping",
    "BalancedScopingState",
    "balanced_gamma",
    "meeting",
    "scoping",
    "stability_limit",
]
