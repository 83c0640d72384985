"""bench.scaling: exponents are found again, what grows too fast is seen, and small runs are told and drawn."""

import doctest
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import bench.growth
from bench import scaling
from bench.growth import growth
from bench.scaling import Curve, Series, Work, doubling, fit_of, held, main, measured, predict_of, products
from bench.scaling_picture import draw
from gpubp.benchmark import timing

pytestmark = pytest.mark.check

SIZES = list(doubling(1, 16384))
SMALL = doubling(1, 32)


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (timing, scaling):
        monkeypatch.setattr(module, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(scaling, "foreign_load", lambda: 0.0)


# -- the fit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_an_exponent_is_found_again(exponent: float) -> None:
    arithmetic = [round(100 * n**exponent) for n in SIZES]
    found = growth(SIZES, [3e-9 * value for value in arithmetic], arithmetic, slack=1.5)
    assert found.exponent == pytest.approx(exponent, abs=1e-4)
    assert found.error == pytest.approx(0, abs=1e-9)
    assert found.prices == pytest.approx((3e-9,) * 3)
    assert found.start == 128
    assert found.met


def test_an_exponent_is_found_again_under_noise_within_its_error() -> None:
    generator, within, trials = np.random.default_rng(0), 0, 300
    for _ in range(trials):
        noisy = [n**1.25 * generator.lognormal(0, 0.1) for n in SIZES]
        found = growth(SIZES, noisy, SIZES, slack=1.0)
        within += abs(found.exponent - 1.25) < 2 * found.error
    assert 0.85 < within / trials < 0.96  # Student's t of eight sizes: 0.91


def test_what_does_not_grow_is_no_part_of_the_exponent() -> None:
    found = growth(SIZES, [max(128, n) for n in SIZES], SIZES, slack=1.5)
    assert found.exponent == pytest.approx(1)
    assert found.prices == (128, 1, 1)


def test_the_exponent_of_the_arithmetic_is_over_the_same_sizes() -> None:
    mixed = [1000 + n for n in SIZES]
    found = growth(SIZES, mixed, mixed, slack=1.0)
    assert found.exponent == found.arithmetic == pytest.approx(np.polyfit(np.log(SIZES[7:]), np.log(mixed[7:]), 1)[0])


@pytest.mark.parametrize(
    ("price", "met"),
    [
        (lambda n: 1.0, True),
        (lambda n: n**-0.5, True),
        (lambda n: 1.3 if n > 1024 else 1.0, True),  # a cache that is left
        (lambda n: n**0.2, False),
        (lambda n: float(n), False),
    ],
)
def test_a_cliff_is_allowed_and_a_power_is_not(price: Callable[[int], float], met: bool) -> None:
    assert growth(SIZES, [n * price(n) for n in SIZES], SIZES, slack=1.5).met is met


@pytest.mark.parametrize("module", [bench.growth, scaling])
def test_doctests(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


# -- what is measured --------------------------------------------------------------------------------------------------


def test_the_arithmetic_is_that_of_the_network() -> None:
    forward = 2 * 7 * (5 * 4 + 4 * 3)
    assert products([5, 4, 3], 7) == (forward, 3 * forward - 2 * 7 * 5 * 4)
    assert held([5, 4, 3], 7) == 4 * (2 * (5 * 4 + 4 + 4 * 3 + 3) + 7 * (4 + 3 + 4 + 3))
    assert held([5, 4], 7) == 4 * (2 * (5 * 4 + 4) + 7 * (4 + 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: scaling.training_step([32, 48, 10], 8192),
        lambda: scaling.training_step([768, 768, 10], 8),
        lambda: fit_of(131_072),
        lambda: predict_of(131_072),
    ],
    ids=["batch", "width", "fit", "predict"],
)
def test_what_is_held_is_little_more_than_what_has_to_be(make: Callable[[], Work]) -> None:
    """Nothing copies the data, which are not counted: those of fit and predict would be 32 MiB."""
    work = make()
    assert 1 <= scaling.traced_peak(work) / work.bytes < 1.35


def test_the_series_are_long_enough_for_a_fit() -> None:
    ends = {series.done: (series.sizes[0], series.sizes[-1]) for series in scaling.SERIES}
    assert set(ends.values()) == {(1, 16384), (16, 4096), (1, 64), (1000, 1_024_000)}
    for series in scaling.SERIES:
        assert len(series.sizes) - len(series.sizes) // 2 >= 4
        assert all(b == 2 * a for a, b in itertools.pairwise(series.sizes))


class Clock:
    """Stands still but for what a step takes, and a tick each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def planted(clock: Clock, seconds: Callable[[int], float], held_bytes: Callable[[int], int]) -> Series:
    """Steps that take so long, and hold so much, where their arithmetic is linear."""

    def at(n: int) -> Work:
        def step() -> Any:
            clock.now += seconds(n)
            return np.empty(held_bytes(n), np.uint8)

        return Work(lambda: step, 10**6 * n, 100 * n, 50_000 * n)

    return Series("rows", "a planted step, for a test", SMALL, at)


def linear(n: int) -> int:
    return 50_000 * n


def square(n: int) -> int:
    return 50_000 * n * n


@pytest.mark.parametrize(("time_grows", "memory_grows"), [*itertools.product((linear, square), repeat=2)])
def test_a_planted_square_is_seen(
    time_grows: Callable[[int], int], memory_grows: Callable[[int], int], clock: Clock
) -> None:
    curve = measured(planted(clock, time_grows, memory_grows), seconds=0.01)
    fits, grows = curve.fits, {"time": time_grows, "memory": memory_grows}
    for name, how in grows.items():
        assert fits[name].met is (how is linear)
        assert fits[name].exponent == pytest.approx(1 if how is linear else 2, abs=0.02)
        assert fits[name].prices[0] == pytest.approx({"time": 500, "memory": 1}[name], rel=0.1)
    told = scaling.verdict([curve])
    wrong = [f"{name} of a planted step, for a test against rows" for name, how in grows.items() if how is square]
    assert told == (f"Faster than its arithmetic grows: {'; '.join(wrong)}." if wrong else scaling.verdict([]))
    assert scaling.table([curve]).count("**no**") == len(wrong)


def curve_of(*rounds: list[float]) -> Curve:
    """Four sizes of which each takes these times a flop, by round."""
    sizes = [1, 2, 4, 8]
    times = [[n * each for each in of_size] for n, of_size in zip(sizes, rounds, strict=True)]
    return Curve("rows", "a step", sizes, times, [0] * 4, sizes, sizes, [n << 20 for n in sizes])


def test_a_cliff_is_named_where_the_rounds_agree() -> None:
    steady, doubtful, higher = [1.0, 1.0, 1.1, 1.0], [1.0, 1.5, 1.0, 1.5], [1.4, 1.5, 1.6, 1.3]
    assert scaling.cliffs([curve_of(steady, steady, steady, doubtful)]) == []
    assert scaling.cliffs([curve_of(steady, higher, higher, steady)]) == []  # below what is fitted, and downwards
    (line,) = scaling.cliffs([curve_of(steady, steady, steady, higher)])
    assert line == (
        "a step: a flop costs 1.43 times as much at rows 8, with 8.0 MiB of data and memory, as at 4, with 4.0 MiB."
    )


# -- small runs, of real networks --------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    step = scaling.training_step
    series = (
        Series("batch", "a step of 6-5-10", SMALL, lambda n: step([6, 5, 10], n)),
        Series("width", "a step of n-n-10", SMALL, lambda n: step([n, n, 10], 4)),
        Series("depth", "a step of n layers", doubling(1, 16), lambda n: step([4] * (n + 1) + [10], 4)),
        Series("rows", "fit, 64-64-10", SMALL, fit_of),
        Series("rows", "predict, 64-64-10", SMALL, predict_of),
    )
    monkeypatch.setattr(scaling, "SERIES", series)
    monkeypatch.setattr(scaling, "ROUNDS", 2)


@pytest.mark.usefixtures("small")
def test_a_small_run_is_told_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    files = [str(tmp_path / name) for name in ("found.json", "curves.svg")]
    assert main(["--seconds", "1e-3", "--json", files[0], "--plot", files[1]]) == 0  # on a clock that stands still
    told = capsys.readouterr().out
    assert "Kernels: " in told.splitlines()[0]
    assert scaling.verdict([]) in told
    assert sum(line.startswith(("| batch", "| width", "| depth", "| rows")) for line in told.splitlines()) == 10
    found = json.loads(Path(files[0]).read_text())
    assert [curve["grows"] for curve in found["curves"]] == ["batch", "width", "depth", "rows", "rows"]
    assert all(curve["growth"]["memory"]["met"] for curve in found["curves"])
    assert all(len(curve["rounds"]) == len(curve["sizes"]) for curve in found["curves"])
    assert b"<svg" in Path(files[1]).read_bytes()


@pytest.mark.usefixtures("small", "clock")
def test_what_is_asked_for_alone_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def seen(series: Series, seconds: float) -> Curve:
        asked.append(series.grows)
        return measured(series, seconds)

    monkeypatch.setattr(scaling, "measured", seen)
    main(["--seconds", "1e-3", "--only", "depth,rows"])
    assert asked == ["depth", "rows", "rows"]


def test_what_grows_too_fast_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    monkeypatch.setattr(scaling, "SERIES", (planted(clock, square, linear),))
    assert main(["--seconds", "1e-3"]) == 1
    assert "Faster than its arithmetic grows: time of a planted step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--only", "rows,height"], "'height' is not known; choose from batch, width, depth, rows"),
        (["--only", ","], "--only needs a name"),
        (["--seconds", "0"], "--seconds needs a positive number"),
        (["--seconds", "inf"], "--seconds needs a positive number"),
        (["--plot", "curves.pdf"], "ends in .png or .svg"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert why in capsys.readouterr().err


@pytest.mark.usefixtures("small", "clock")
def test_a_panel_shows_time_memory_and_the_arithmetic() -> None:
    curves = [measured(series, 1e-3) for series in scaling.SERIES]
    figure = draw(curves)
    panels, besides = figure.axes[::2], figure.axes[1::2]
    assert [axes.get_title().partition(":")[0] for axes in panels] == ["batch", "width", "depth", "rows"]
    for axes, beside, count in zip(panels, besides, (1, 1, 1, 2), strict=True):
        for where, style in ((axes, "-"), (beside, "--")):
            assert len(where.lines) == 2 * count
            guide, line = where.lines[:2]
            assert line.get_linestyle() == style
            assert guide.get_ydata()[-1] == pytest.approx(line.get_ydata()[-1])
        spans = [np.ptp(np.log10(where.get_ylim())) for where in (axes, beside)]
        assert spans[0] == pytest.approx(spans[1])  # so that lines of one exponent are parallel
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert len(texts) == 2 * count + 1
        assert all("±" in text and "arithmetic" in text for text in texts[:-1])
