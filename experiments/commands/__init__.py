"""The commands of `python -m experiments`: studies with configurations."""
