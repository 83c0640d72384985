"""scikit-learn's checks of an estimator, those it holds its own to, on gpubp.sklearn's two classes."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib import import_module

import pytest

pytestmark = pytest.mark.check

End = tuple[str, str, str]  # of a check: its name; passed, skipped or failed; the exception
CHECKS = 60  # scikit-learn 1.9.1 has a few more for either class


def ends(name: str, package: str) -> list[End]:
    """How every check of this class ended."""
    import sklearn.neural_network
    from sklearn.utils import estimator_checks
    from sklearn.utils._test_common.instance_generator import INIT_PARAMS, PER_ESTIMATOR_CHECK_PARAMS

    theirs, tested = getattr(sklearn.neural_network, name), getattr(import_module(package), name)
    # What scikit-learn sets in its own tests: fewer iterations, and solvers that weights and repeated rows lead alike.
    PER_ESTIMATOR_CHECK_PARAMS[tested] = PER_ESTIMATOR_CHECK_PARAMS[theirs]
    estimator = tested(**INIT_PARAMS[theirs])
    results = estimator_checks.check_estimator(estimator, on_skip=None, on_fail=None)
    found = [(each["check_name"], each["status"], repr(each["exception"])) for each in results]
    for check in (  # those that its tests/test_common.py has besides
        estimator_checks.check_all_zero_sample_weights_error,
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_param_validation,
    ):
        try:
            check(name, estimator)
            found.append((check.__name__, "passed", "None"))
        except Exception as error:
            found.append((check.__name__, "failed", repr(error)))
    return found


def counted(name: str, package: str) -> Counter[End]:
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}  # scipy reads it as it is imported: in a process of its own
    command = [sys.executable, "-W", "ignore", __file__, name, package]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    return Counter((check, status, exception) for check, status, exception in json.loads(run.stdout.splitlines()[-1]))


def names(found: Counter[End]) -> Counter[str]:
    return Counter(check for check, _, _ in found.elements())


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_no_check_fails_and_none_is_skipped_that_scikit_learn_does_not_skip(name: str) -> None:
    theirs, ours = counted(name, "sklearn.neural_network"), counted(name, "gpubp.sklearn")
    assert [end for end in ours if end[1] != "passed" and end not in theirs] == []
    assert [end for end in theirs if end[1] not in ("passed", "skipped")] == []
    assert names(ours) >= names(theirs)
    assert names(theirs).total() >= CHECKS


if __name__ == "__main__":
    print(json.dumps(ends(*sys.argv[1:])))
