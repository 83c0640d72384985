"""scikit-learn's own tests of its multi-layer perceptron, as they are installed, pass with gpubp.sklearn's classes."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.check

TESTS = Path(__file__).parent
ITEMS = 59  # in scikit-learn 1.9.1
THEIRS = "sklearn.neural_network.tests.test_mlp"
UNFIT = """
from sklearn_swap import NAMES
import gpubp.sklearn

def refuse(*arguments, **named):
    raise NotImplementedError("gpubp's class is asked")

for name in NAMES:
    getattr(gpubp.sklearn, name).fit = getattr(gpubp.sklearn, name).partial_fit = refuse
"""


def outcomes(folder: Path, plugins: Iterable[str]) -> tuple[dict[str, str], str]:
    """What became of each item, "passed" or how not, and all that pytest printed.

    This project's settings stay out of it; scikit-learn's conftest.py is in, with the warnings that are errors there.
    """
    report = folder / "report.xml"
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", f"--rootdir={folder}", f"--junit-xml={report}", "-p", "no:cacheprovider"]
    for plugin in plugins:
        command += ["-p", plugin]
    path = os.pathsep.join([str(TESTS), str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "SKLEARN_WARNINGS_AS_ERRORS": "1"}
    run = subprocess.run(
        [*command, "--pyargs", THEIRS], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
    )
    assert report.exists(), run.stdout + run.stderr
    found = {}
    for item in ElementTree.parse(report).iter("testcase"):
        ends = [f"{end.tag}: {end.get('message')}" for end in item if end.tag in ("failure", "error", "skipped")]
        found[f"{item.get('name')}"] = "; ".join(ends) or "passed"
    return found, run.stdout


def test_all_of_them_pass_and_none_is_skipped(tmp_path: Path) -> None:
    found, printed = outcomes(tmp_path, ["sklearn_swap"])
    assert {name: end for name, end in found.items() if end != "passed"} == {}, printed
    assert len(found) >= ITEMS


def test_every_one_of_them_is_about_gpubp(tmp_path: Path) -> None:
    (tmp_path / "unfit.py").write_text(UNFIT)
    found, printed = outcomes(tmp_path, ["sklearn_swap", "unfit"])
    assert [name for name, end in found.items() if end == "passed"] == [], printed
    assert len(found) >= ITEMS
    assert "gpubp's class is asked" in printed
