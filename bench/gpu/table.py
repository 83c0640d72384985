"""The results as Markdown: who was asked, a table for each question, what failed and what was not reached."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from bench.gpu import verdict


def markdown(document: Mapping[str, Any]) -> str:
    """A whole page."""
    lines = ["# gpubp on a GPU", ""]
    for number, run in enumerate(document["runs"]):
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        lines.append(
            f"Run {number}: {run['device']}, driver {run['driver']}; {run['cpu']}; Python {run['python']}, {versions}; "
            f"gpubp {run['gpubp']}, commit {run['commit']}; {run['date']}."
        )
    answered = {name: record["answer"] for name, record in document["cells"].items() if "answer" in record}
    for heading, names in groupby(sorted(answered, key=question), key=question):
        lines += ["", f"## {heading}", "", *table({name.split("/", 2)[2]: answered[name] for name in names})]
    lines += verdict.told(document["cells"])
    failed = {name: record["failed"] for name, record in document["cells"].items() if "failed" in record}
    if failed:
        lines += ["", "## Without an answer", "", *(f"- {name}: {one_line(why)}" for name, why in failed.items())]
    if document["unreached"]:
        lines += ["", "## Not reached", "", *(f"- {name}" for name in document["unreached"])]
    return "\n".join(lines) + "\n"


def question(cell: str) -> str:
    return "/".join(cell.split("/", 2)[:2])


def table(answers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row for each cell, or for each named part of its answer."""
    rows = []
    for cell, answer in answers.items():
        parts = {key: value for key, value in answer.items() if isinstance(value, Mapping)}
        rows += [({"": cell, "of": part} | dict(values)) for part, values in parts.items()]
        rest = {key: value for key, value in answer.items() if key not in parts}
        if rest:
            rows.append({"": cell} | rest)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return [*head, *("| " + " | ".join(entry(row.get(column)) for column in columns) + " |" for row in rows)]


def entry(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, list):
        return "; ".join(map(entry, value))
    if isinstance(value, float) and (value >= 100 or value == 0):
        return f"{value:,.0f}"
    return one_line(f"{value:.3g}" if isinstance(value, float) else str(value))


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
