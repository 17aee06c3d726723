"""Compare algorithms on one task, with settings that are given, over seeds."""
