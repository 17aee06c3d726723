"""Damages files, starts races and sends signals, and checks that no wrong number comes of it."""
