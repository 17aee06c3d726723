"""Committees on two classes: what learns them, how flat the solutions are, what it is worth."""
