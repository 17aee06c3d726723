"""Scoping: how the coupling gamma grows during training, and where it starts."""

from flatjax._schedules import BalancedScoping, BalancedScopingState, balanced_gamma, scoping

__all__ = ["BalancedScoping", "BalancedScopingState", "balanced_gamma", "scoping"]
