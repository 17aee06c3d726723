"""The cost of a step on up to thousands of accelerators, predicted by counting."""
