"""The commands of `python -m experiments`: each brings a study and its configuration together."""
