"""A small model of language: few messages, many steps, and how flat the solutions are."""
