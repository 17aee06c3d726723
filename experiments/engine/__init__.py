"""The engine: one run from its configuration to its result, or many runs at once.

`config` describes a run and `task` holds its data. `plan` is the static part of a run, `steps`
contains its pure functions, and `programs` compiles them. `train` goes from the first step to the
result, and `population` trains many runs in one program.
"""
