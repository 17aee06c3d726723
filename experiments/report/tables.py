"""Tables in Markdown."""

from collections.abc import Sequence


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Aligns cells as a Markdown table; the first line is the header.

    Examples:
      >>> print(markdown_table([["algorithm", "error"], ["SGD", "2.5"]]))
      | algorithm | error |
      | --------- | ----- |
      | SGD       | 2.5   |
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    ]
    text.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in text)
