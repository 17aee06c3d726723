"""The rows of the paper's table of deep networks."""
