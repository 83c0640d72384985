"""`python -m bench.sklearn_scores`: over many seeds gpubp.sklearn's estimators score as scikit-learn's do."""

from typing import Any

import pytest

from bench import sklearn_scores
from bench.sklearn_scores import difference, main


@pytest.mark.parametrize(
    ("theirs", "ours", "allowed", "met"),
    [
        ([90.0, 90.0], [90.3, 90.2], 0.3, True),  # se 0 and 0.05: 0.3 points
        ([90.0, 90.0], [89.6, 89.6], 0.3, False),
        ([88.0, 92.0], [86.0, 90.0], 2.6 * 8**0.5, True),  # se 2 and 2
        ([88.0, 92.0], [80.0, 84.0], 2.6 * 8**0.5, False),
    ],
)
def test_the_means_may_differ_by_their_errors_or_by_a_third_of_a_point(
    theirs: list[float], ours: list[float], allowed: float, met: bool
) -> None:
    off, found = difference(theirs, ours)
    assert off == pytest.approx(sum(ours) / 2 - sum(theirs) / 2)
    assert found == pytest.approx(allowed)
    assert (abs(off) <= found) is met


def test_one_set_that_is_not_met_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def scores(name: str, package: str, seeds: int, shift: int, dtype: str) -> list[float]:
        off = 5.0 if (name, shift) == ("digits", sklearn_scores.OTHER) else 0.0
        return [90.0 + off, 91.0 + off] * seeds

    monkeypatch.setattr(sklearn_scores, "scores", scores)
    assert main(["--seeds", "3"]) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row.endswith("| yes, **no** |") for row in rows] == [True, False, False]


def test_one_seed_has_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--seeds", "1"])
    assert ended.value.code == 2
    assert "--seeds needs 2 or more" in capsys.readouterr().err


@pytest.mark.check
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digits_breast_cancer_and_diabetes(dtype: str, capsys: Any) -> None:
    assert main(["--dtype", dtype]) == 0, capsys.readouterr().out


@pytest.mark.check
def test_another_random_state_is_another_fit() -> None:
    same, other = (sklearn_scores.scores("digits", "gpubp.sklearn", 2, shift, "float64") for shift in (0, 1000))
    assert same != other
