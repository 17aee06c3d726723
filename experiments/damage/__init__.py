"""Damages files, starts races and sends signals, and checks all numbers."""
