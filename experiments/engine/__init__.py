"""The engine: one run, from its configuration to its result, and many runs at once.

`config` describes a run and `task` what it learns; `trainer` takes the steps, `train` goes from the
first to the result, and `population` trains many runs in one program.
"""
