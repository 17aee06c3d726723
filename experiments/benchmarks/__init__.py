"""Benchmarks: ratios of times, each measured in one run on one machine.

`python -m experiments.benchmarks --help`
"""
