"""What a document becomes, a form a file, and what these forms share."""

from gpubp.explain.document import Cell

WRONG, RIGHT = "✗", "✓"


def printable(text: str) -> str:
    """A text as one line, whatever file it came from: white space is a space, a control character a question mark."""
    return "".join(" " if letter.isspace() else letter if letter.isprintable() else "?" for letter in text)


def entry(cell: Cell) -> str:
    """A cell's text; what is bad is marked, for those who see no colours."""
    return printable(cell.text) + f" {WRONG}" * (cell.tone == "bad")
