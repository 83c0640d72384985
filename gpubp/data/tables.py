"""Tables: which columns are the inputs and which is the target, whatever kind of file they stand in."""

import difflib
import re
from dataclasses import dataclass, field

from gpubp.errors import DataError
from gpubp.registry import did_you_mean

TARGET_NAMES = {"target", "label", "class", "y"}
MOST_LISTED = 30


@dataclass(frozen=True)
class Columns:
    """The columns that are wanted, by their places in the file."""

    inputs: list[int]
    names: list[str]  # of the inputs
    target: tuple[int, str] | None = None  # its place and its name
    chosen: list[str] = field(default_factory=list)  # what was decided without being asked for

    @property
    def target_name(self) -> str | None:
        return None if self.target is None else self.target[1]


def choose_columns(
    where: str, names: list[str], target: str | None, features: list[str] | None, needs_target: bool, named: bool = True
) -> Columns:
    """The inputs and the target among these columns; `features` are the inputs of a model, in its order.

    `named` tells whether the names come from the file; else they are the columns' numbers.
    """
    places = _places(where, names)
    chosen: list[str] = []
    if features is not None and not named:
        if not all(map(str.isdecimal, features)):
            raise DataError(
                f"{where} has no header, so that its columns cannot be told apart; give it one that names "
                f"{', '.join(features[:MOST_LISTED])}"
            )
        if not needs_target and len(names) == len(features):
            return Columns(list(range(len(names))), features)  # the target's column has been left out of the file
    place = places.get(target or "")
    if place is None:
        place = _target_place(where, names, target, set(features or []), needs_target, chosen)
    if features is None:
        inputs = [column for column in range(len(names)) if column != place]
        if not inputs:
            raise DataError(
                f"{where} has no column but {names[place or 0]!r}, the target; there is nothing to learn from "
                "(columns are to be separated by commas, semicolons or tabs)"
            )
    else:
        _check_features(where, places, features, place)
        inputs = [places[feature] for feature in features]
    wanted = [names[column] for column in inputs]
    found = None if place is None or not needs_target else (place, names[place])
    return Columns(inputs, wanted, found, chosen)


def _places(where: str, names: list[str]) -> dict[str, int]:
    """Where each of the names stands, which must be one place."""
    places: dict[str, int] = {}
    for column, name in enumerate(names):
        if not name:
            raise DataError(
                f"{where}: column {column} (counted from 0) has no name; name it, or remove it "
                "(pandas writes its row numbers so, unless index=False)"
            )
        if places.setdefault(name, column) != column:
            raise DataError(
                f"{where}: the columns {places[name]} and {column} (counted from 0) are both called {name!r}; "
                "rename one"
            )
    return places


def _target_place(
    where: str, names: list[str], target: str | None, features: set[str], needs_target: bool, chosen: list[str]
) -> int | None:
    """The place of a target that is not named, but numbered or guessed, which goes into `chosen`."""
    if target is not None:
        if re.fullmatch(r"-?\d{1,9}", target) and -len(names) <= int(target) < len(names):
            return int(target) % len(names)
        if not needs_target:
            return None
        raise DataError(f"{where} has no column {target!r} for the target; {_known(target, names)}")
    left = [column for column, name in enumerate(names) if name not in features]
    called = [column for column in left if names[column].lower() in TARGET_NAMES]
    if len(called) != 1 and not needs_target:
        return None
    if not left:
        raise DataError(f"{where} has no column but those of the model's inputs; a target is needed")
    place = called[0] if len(called) == 1 else left[-1]
    why = "by its name" if len(called) == 1 else "the last column"
    left_out = "" if needs_target else ", and left out"
    chosen.append(f"the target is {names[place]!r}, {why}{left_out}; --target names another")
    return place


def _check_features(where: str, places: dict[str, int], features: list[str], target: int | None) -> None:
    if missing := [feature for feature in features if feature not in places]:
        raise DataError(
            f"{where} has no column {missing[0]!r}, which the model was trained on; {_known(missing[0], [*places])}"
        )
    known = set(features)
    for name, column in places.items():
        if name not in known and column != target:
            raise DataError(
                f"{where} has the column {name!r}, which the model was not trained on; remove or rename it; "
                f"{_known(name, features)}"
            )
        if name in known and column == target:
            raise DataError(f"{where}: the target {name!r} is one of the model's inputs")


def _known(name: str, names: list[str]) -> str:
    if len(names) <= MOST_LISTED:
        return did_you_mean(name, names)
    near = difflib.get_close_matches(name, names, n=3)
    return did_you_mean(name, near + [other for other in names[:MOST_LISTED] if other not in near]) + ", …"
