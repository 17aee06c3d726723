"""Compares algorithms with given settings on one task, over seeds."""
