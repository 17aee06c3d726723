"""Committees on two classes: training, flatness and test errors."""
