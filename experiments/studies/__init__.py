"""The studies, a package for each: description, execution and report.

A description is a dataclass that says what is run. Its values are in `experiments.configs`, which
imports only `description` from a study. `experiments.commands` joins both.
"""
