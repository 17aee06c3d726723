"""Reads tables of pages."""


def rows_below(text, header):
    """Cells of the rows of the table whose first line begins with a header."""
    lines = text[text.index(header) :].splitlines()
    table = lines[2 : lines.index("")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
