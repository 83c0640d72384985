"""Scores over many seeds, `python -m bench.sklearn_scores`: gpubp.sklearn's estimators against scikit-learn's own.

Every seed splits digits, breast_cancer and diabetes once, and each library learns from the same standardised rows: with
the same `random_state`, which draws the same weights and batches, and, as that alone would compare a fit with itself,
gpubp also with another. The accuracies, or R² of diabetes, are met where |difference of the means| ≤
max(2.6 √(se₁² + se₂²), 0.3 points), se being a mean's standard error: 2.6 of them are exceeded by chance in 1 of 100.

Exit codes: 0 all are met, 1 one is not; 2 usage.
"""

import argparse
import math
import statistics
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

SETS = {"digits": "MLPClassifier", "breast_cancer": "MLPClassifier", "diabetes": "MLPRegressor"}
SETTINGS = {"hidden_layer_sizes": (32,), "learning_rate_init": 0.003, "max_iter": 60}
OTHER = 1000  # added to a seed makes another random_state
ERRORS, POINTS = 2.6, 0.3

Scores = list[float]  # of each seed, in points: hundredths


def scores(name: str, package: str, seeds: int, shift: int, dtype: str) -> Scores:
    """Of the held-out third of this set; random_state is seed + shift."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    make = getattr(import_module(package), SETS[name])
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if SETS[name] == "MLPRegressor":
        y = (y - y.mean()) / y.std()
    found = []
    for seed in range(seeds):
        x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=1 / 3, random_state=seed)
        scaler = StandardScaler().fit(x_train)
        x_train, x_test = (scaler.transform(rows).astype(dtype) for rows in (x_train, x_test))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            fitted = make(**SETTINGS, random_state=seed + shift).fit(x_train, y_train)
        found.append(100 * float(fitted.score(x_test, y_test)))
    return found


def mean_and_error(of: Scores) -> tuple[float, float]:
    return statistics.mean(of), statistics.stdev(of) / math.sqrt(len(of))


def difference(theirs: Scores, ours: Scores) -> tuple[float, float]:
    """That of the means, and what is allowed."""
    (mean, error), (other, other_error) = mean_and_error(theirs), mean_and_error(ours)
    return other - mean, max(ERRORS * math.hypot(error, other_error), POINTS)


def measured(seeds: int, dtype: str, say: Callable[[str], Any]) -> bool:
    """Say a row of each set, and whether all are met."""
    say("| set | scikit-learn | gpubp, the same seeds | gpubp, other seeds | differences | allowed | met |")
    say("|---|---|---|---|---|---|---|")
    met = True
    for name in SETS:
        theirs = scores(name, "sklearn.neural_network", seeds, 0, dtype)
        both = [scores(name, "gpubp.sklearn", seeds, shift, dtype) for shift in (0, OTHER)]
        found = [difference(theirs, ours) for ours in both]
        each = [abs(off) <= allowed for off, allowed in found]
        row = [name, *("{:.2f} ± {:.2f}".format(*mean_and_error(of)) for of in (theirs, *both))]
        row += [", ".join(f"{off:+.2f}" for off, _ in found), ", ".join(f"{allowed:.2f}" for _, allowed in found)]
        say("| " + " | ".join([*row, ", ".join("yes" if one else "**no**" for one in each)]) + " |")
        met = met and all(each)
    return met


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sklearn_scores", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="from 0 (default 20)")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64", help="of X (default float64)")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds needs 2 or more, for a standard error")
    print(f"Points, the mean of {options.seeds} seeds ± its standard error; {options.dtype}.\n")
    met = measured(options.seeds, options.dtype, lambda line: print(line, flush=True))
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
