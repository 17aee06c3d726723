"""Experiments with flatjax: training, comparison of the algorithms, benchmarks. Run from the root.

`python -m experiments --help` lists the commands. Imports run one way: `commands` bring `configs`
and `studies` together, studies train with the `engine`, and everything is written by `report`.
"""
