"""A small language model: few messages, many steps, and flatness."""
