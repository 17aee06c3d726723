"""Experiments with flatjax: training, comparisons and benchmarks.

Run them from the root of the repository; `python -m experiments --help` lists the commands. Imports
go in one direction: `commands` join `configs` and `studies`, studies train with the `engine`, and
`report` writes all results.
"""
