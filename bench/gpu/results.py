"""What was found: one JSON file, and the same as a Markdown table, both whole after every cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.gpu.table import markdown
from gpubp.whole import write_whole


class UnusableError(Exception):
    """Earlier results that these cannot be merged into."""


class Results:
    """The answers of one run or of several, by cell; each run says who, where and when."""

    def __init__(self, path: Path, run: Mapping[str, Any], planned: Iterable[str], earlier: Path | None = None) -> None:
        self.path = path
        document = read(earlier) if earlier else {"runs": [], "cells": {}, "unreached": []}
        if any(known["device"] != run["device"] for known in document["runs"]):
            known = document["runs"][0]["device"]
            raise UnusableError(f"{earlier} is of {known!r} and this is {run['device']!r}; leave --resume away")
        self.runs: list[Mapping[str, Any]] = [*document["runs"], run]
        self.cells: dict[str, dict[str, Any]] = document["cells"]
        self._planned = list(dict.fromkeys([*document["unreached"], *planned]))
        self.write()

    @property
    def unreached(self) -> list[str]:
        return [cell for cell in self._planned if cell not in self.cells]

    @property
    def failed(self) -> list[str]:
        return [name for name, record in self.cells.items() if "failed" in record]

    def put(self, cell: str, record: Mapping[str, Any]) -> None:
        self.cells[cell] = {**record, "run": len(self.runs) - 1}
        self.write()

    def write(self) -> None:
        document = {"runs": self.runs, "cells": self.cells, "unreached": self.unreached}
        write_whole(self.path, (json.dumps(document, indent=1) + "\n").encode())
        write_whole(self.path.with_suffix(".md"), markdown(document).encode())


def read(path: Path) -> dict[str, Any]:
    """An earlier file of results."""
    remedy = "give the .json that an earlier run wrote, by default into bench/results, or leave --resume away"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        document["runs"][0]["device"], document["cells"].values(), document["unreached"]
    except OSError as error:
        raise UnusableError(f"--resume {path} cannot be read: {error.strerror}; {remedy}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UnusableError(f"--resume {path} is no results file of bench.gpu; {remedy}") from None
    return document
