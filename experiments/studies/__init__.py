"""The studies, a package for each: its description, how it is run, what it reports.

A description is a dataclass that says what is run; its values are in `experiments.configs`, which
imports `description` and nothing else of a study. `experiments.commands` brings both together.
"""
