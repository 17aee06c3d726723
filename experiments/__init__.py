"""Experiments with flatjax: training, comparison of the algorithms, benchmarks. Run from the root.

`python -m experiments --help` lists what there is.
"""
