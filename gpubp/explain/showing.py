"""What can be shown: one document, as a terminal's text, in a notebook, as Markdown, HTML, LaTeX or JSON."""

import json
from math import isfinite
from os import PathLike
from typing import Any

from gpubp.explain.document import Document


class Showing:
    """A subclass makes its `document`, and the `facts` of it as plain numbers; the rest follows.

    `print` shows it in plain text, rich's console in colour, and a notebook's last line as HTML.
    """

    def document(self) -> Document:
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        raise NotImplementedError

    def picture(self, path: str | PathLike[str]) -> None:
        """Draw it into a .png or .svg file; needs matplotlib."""
        raise NotImplementedError

    def __rich__(self) -> Any:
        from gpubp.explain.render.terminal import terminal

        return terminal(self.document())

    def __str__(self) -> str:
        from gpubp.explain.render.terminal import plain

        return plain(self.document())

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self) -> str:
        """A fragment of HTML that needs nothing else."""
        from gpubp.explain.render.html import html

        return html(self.document())

    def to_markdown(self) -> str:
        from gpubp.explain.render.markdown import markdown

        return markdown(self.document())

    def to_latex(self) -> str:
        """A document to compile, with tables of booktabs and formulas of amsmath."""
        from gpubp.explain.render.latex import latex

        return latex(self.document())

    def to_json(self) -> str:
        """All numbers with all their digits; null where one is not finite, which JSON cannot say."""
        return json.dumps(_plain(self.facts()), allow_nan=False)


def _plain(value: Any) -> Any:
    """Lists and dicts of Python numbers; None for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not isfinite(value) else value
