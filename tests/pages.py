"""Reads tables of pages."""

from experiments.report.statistics import mean_and_sem, with_error


def rows_below(text, header):
    """Cells of the rows of the table whose first line begins with a header."""
    lines = text[text.index(header) :].splitlines()
    table = lines[2 : lines.index("")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def shown(values):
    """A mean with its standard error, as pages have it."""
    return with_error(*mean_and_sem(values), len(values))
