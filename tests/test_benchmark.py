"""The benchmark's machinery: the work is the textbook's, different work is refused, and the clock waits for it all."""

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.benchmark import jax_peer, ours, problem, torch_peers
from gpubp.benchmark.contenders import BUILDERS, Contender, DifferentWorkError, Setting, check
from gpubp.benchmark.contract import tolerances
from gpubp.benchmark.problem import OPTIMIZERS, make_problem, reference
from gpubp.benchmark.race import prepare, take_turns
from gpubp.benchmark.results import Result, crossover, left_out, results_of
from gpubp.benchmark.timing import estimated, in_turns, timed
from gpubp.benchmark.workers import Booth, FailedError, racing

SMALL = (6, 5, 4, 3)
OURS = {"sgd": gpubp.SGD(0.1), "momentum": gpubp.SGD(0.01, momentum=0.9), "adam": gpubp.Adam()}


# -- the work ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", problem.ACTIVATIONS)
def test_the_reference_is_the_network_in_float64(activation: str, optimizer: str) -> None:
    made = make_problem(SMALL, 9, activation, seed=1, optimizer=optimizer)
    net = gpubp.MLP(SMALL, activation, dtype="float64", device="cpu", seed=0)
    net.set_parameters(made.weights, made.biases)
    mine = OURS[optimizer]
    mine.reset()
    losses, parameters = reference(made, 4)
    assert losses == pytest.approx([float(net.train_step(made.x, made.labels, mine)) for _ in range(4)], abs=1e-12)
    for expected, found in zip(parameters, [*net.weights, *net.biases], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_reference_of_a_large_batch_is_that_of_its_distinct_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "DISTINCT", 7)
    made = make_problem(SMALL, 40, seed=1)
    assert len(made.shares) == 7
    assert made.shares.sum() == pytest.approx(1)
    every = dataclasses.replace(made, shares=np.full(40, 1 / 40))
    assert reference(made, 3)[0] == pytest.approx(reference(every, 3)[0], abs=1e-12)
    check(BUILDERS["numpy"](made, Setting()), made)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", problem.ACTIVATIONS)
@pytest.mark.parametrize("name", ["gpubp", "numpy"])
@pytest.mark.parametrize("sizes", [SMALL, (4, 2)])
def test_our_contenders_do_the_work(name: str, activation: str, optimizer: str, sizes: tuple[int, ...]) -> None:
    made = make_problem(sizes, 11, activation, optimizer=optimizer)
    contender = BUILDERS[name](made, Setting())
    assert check(contender, made) == pytest.approx(reference(made, 3)[0], abs=1e-5)
    assert contender.memory() is None


def test_the_floor_has_every_product_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_problem(SMALL, 9)
    contender = BUILDERS["gemms"](made, Setting())
    assert check(contender, made) == []
    contender.step()
    made_on: list[tuple[int, ...]] = []
    monkeypatch.setattr(gpubp.backends.numpy.NumpyBackend, "empty", lambda self, shape, dtype: made_on.append(shape))
    BUILDERS["gemms"](made, Setting())
    # of each layer y = x W and dW = xᵀ dy, and of all but the first dx = dy Wᵀ
    assert sorted(made_on) == sorted([(9, 5), (6, 5), (9, 4), (5, 4), (9, 5), (9, 3), (4, 3), (9, 4)])


def wrong(kind: str, contender: Contender) -> Contender:
    def parameters() -> list[Any]:
        assert contender.parameters is not None
        arrays = [np.array(each) for each in contender.parameters()]
        arrays[0][0, 0] += {"far": 0.1, "nan": np.nan, "near": 1e-7}[kind]
        return arrays

    return dataclasses.replace(contender, parameters=parameters)


def test_different_work_is_refused() -> None:
    made = make_problem(SMALL, 9)

    def fresh() -> Contender:
        return BUILDERS["numpy"](made, Setting())

    check(wrong("near", fresh()), made)
    for kind in ("far", "nan"):
        with pytest.raises(DifferentWorkError, match="array 0 of its parameters"):
            check(wrong(kind, fresh()), made)
    for value in (lambda loss: float(loss) + 1e-3, lambda loss: float("nan")):
        with pytest.raises(DifferentWorkError, match="its losses are"):
            check(dataclasses.replace(fresh(), loss=value), made)
    forgotten = dataclasses.replace(made, biases=[0 * bias for bias in made.biases])
    with pytest.raises(DifferentWorkError):
        check(BUILDERS["numpy"](forgotten, Setting()), made)


def skewed(kind: str, made: problem.Problem, monkeypatch: pytest.MonkeyPatch) -> Contender:
    """A contender that nearly computes what was asked for."""
    match kind:
        case "another optimizer":
            other = {"sgd": "momentum", "momentum": "sgd", "adam": "momentum"}[made.optimizer]
            return BUILDERS["numpy"](dataclasses.replace(made, optimizer=other), Setting())
        case "another rate":
            monkeypatch.setitem(problem.OPTIMIZERS, made.optimizer, 1.2 * made.learning_rate)
        case "another momentum":
            monkeypatch.setattr(ours, "MOMENTUM", 0.8)
            monkeypatch.setattr(ours, "BETAS", (0.0, 0.999))
        case "a row left out":
            made = dataclasses.replace(made, x=made.x[1:], labels=made.labels[1:])
    contender = BUILDERS["numpy"](made, Setting())
    monkeypatch.undo()
    return contender


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("kind", ["another optimizer", "another rate", "another momentum", "a row left out"])
def test_nearly_the_work_is_refused(
    kind: str, activation: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_problem((40, 30, 20, 10), 64, activation, optimizer=optimizer)
    contender = skewed(kind, made, monkeypatch)
    if (kind, optimizer) == ("another momentum", "sgd"):
        check(contender, made)  # it has none
        return
    with pytest.raises(DifferentWorkError):
        check(contender, made)


def test_relu_under_adam_has_the_tolerances_of_its_kinks() -> None:
    assert tolerances("relu", "adam") > tolerances("relu", "momentum") == tolerances("sigmoid", "adam")


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_are_checked() -> None:
    assert [(s.kind, s.index) for s in map(Setting, ("cpu", "cuda", "cuda:3"))] == [
        ("cpu", 0),
        ("cuda", 0),
        ("cuda", 3),
    ]
    for settings in ({"device": "gpu"}, {"precision": "bf16"}):
        with pytest.raises(gpubp.DataError, match="must be"):
            Setting(**settings)  # type: ignore[arg-type]
    for asked in ({"activation": "gelu"}, {"optimizer": "rmsprop"}):
        (what,) = asked
        with pytest.raises(gpubp.DataError, match=what):
            make_problem(SMALL, 4, **asked)


def test_who_cannot_take_part_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    made, sklearn = make_problem(SMALL, 4), dataclasses.replace(BUILDERS["sklearn"], module="gpubp")
    assert sklearn.why_not(Setting()) is None
    assert sklearn.why_not(Setting("cuda")) == "runs on the CPU only"
    assert dataclasses.replace(BUILDERS["torch-graphs"], module="gpubp").why_not(Setting()) == "runs on CUDA only"
    assert BUILDERS["gpubp"].why_not(Setting(precision="tf32")) == "there is no tf32 on the CPU"
    missing = dataclasses.replace(BUILDERS["jax"], module="gpubp_peer_that_is_not_there")
    assert missing.why_not(Setting()) == "not installed (pip install jax)"
    with pytest.raises(gpubp.DeviceError, match="numpy on cuda: runs on the CPU only"):
        BUILDERS["numpy"](made, Setting("cuda"))


class OnNumpy(gpubp.backends.numpy.NumpyBackend):
    """NumPy behind the few names of CuPy that a contender uses on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Any] = []
        pool = SimpleNamespace(used_bytes=lambda: 300, free_bytes=lambda: 40, free_all_blocks=lambda: None)
        types = SimpleNamespace(COMPUTE_TYPE_FP32="FP32", COMPUTE_TYPE_TF32="TF32")
        self.xp = SimpleNamespace(
            cuda=SimpleNamespace(Device=lambda index: SimpleNamespace(use=lambda: self.said.append(index))),
            _core=SimpleNamespace(
                set_compute_type=lambda dtype, kind: self.said.append((dtype, kind)), _routines_linalg=types
            ),
            get_default_memory_pool=lambda: pool,
        )

    def synchronize(self) -> None:
        self.said.append("waited")


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_the_floor_on_a_gpu(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnNumpy()
    monkeypatch.setattr(gpubp, "get_backend", lambda device: backend)
    contender = ours.gemms(make_problem(SMALL, 9), Setting("cuda:2", precision))
    contender.step()
    contender.wait()
    assert backend.said == [2, ("float32", {"float32": "FP32", "tf32": "TF32"}[precision]), "waited"]
    assert contender.memory() == 340


# -- the clock ---------------------------------------------------------------------------------------------------------


def test_what_is_enqueued_is_waited_for() -> None:
    asked = 0

    def step() -> None:
        nonlocal asked
        asked += 1

    def wait() -> None:
        nonlocal asked
        time.sleep(0.002 * asked)
        asked = 0

    assert timed(step, wait, 10) > 0.0019
    assert estimated(step, wait, 0.02) > 0.0019
    assert asked == 0


def test_turns_rotate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.benchmark.timing.SETTLE_SECONDS", 0)
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    times = in_turns({name: lambda name=name: turn(name) for name in "abc"}, 4)  # type: ignore[misc]
    assert "".join(order) == "abcbcacababc"
    assert times["a"] == [1.0, 6.0, 8.0, 10.0]


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_race_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.benchmark.timing.SETTLE_SECONDS", 0)
    with racing([("gemms", Setting()), ("gpubp", Setting()), ("sklearn", Setting("cuda"))]) as racers:
        outcomes = prepare(racers, ((8, 4, 3), 4, "relu", 0), 0.002)
        take_turns(outcomes, 5)
        results = {row.contender: row for row in results_of(outcomes, (8, 4, 3), 4, {"cpu": 1e9})}
        (missing,) = left_out(outcomes, 4)
        assert (missing["contender"], missing["device"]) == ("sklearn", "cuda")
        assert "sklearn on cuda: " in missing["reason"]
        assert set(results) == {"gemms", "gpubp"}
        mine, floor = results["gpubp"], results["gemms"]
        assert len(mine.seconds_per_step) == 5
        assert mine.low <= mine.samples_per_second <= mine.high
        assert mine.samples_per_second == pytest.approx(4 / np.median(mine.seconds_per_step))
        assert mine.times_gpubp == floor.share_of_gemms == 1
        assert mine.flops == pytest.approx(2 * (3 * (8 * 4 + 4 * 3) - 8 * 4) * mine.samples_per_second)
        assert mine.share_of_peak == pytest.approx(mine.flops / 1e9)
        assert 1e8 < racers[0].ask("peak") < 1e14
        assert mine.share_of_gemms is not None
        assert mine.share_of_gemms == pytest.approx(floor.times_gpubp)
        assert mine.losses == pytest.approx(reference(make_problem((8, 4, 3), 4, "relu", 0), 3)[0], abs=1e-5)
        assert racers[1].versions["gpubp"] == gpubp.__version__
        racers[0].process.kill()
        for command in ("memory", "run"):
            with pytest.raises(FailedError, match="its process ended"):
                racers[0].ask(command)
        with pytest.raises(FailedError, match="not ready after 0 s"):
            racers[1].ask("calibrate", 5.0, seconds=0)
        take_turns(outcomes, 5)
        assert results_of(outcomes, (8, 4, 3), 4) == []
    assert all(racer.process.exitcode is not None for racer in racers)


def test_what_a_contender_raises_is_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    booth = Booth("gpubp", Setting())
    verdict, (told, trace) = booth.answer("build", (SMALL, 0, "relu", 0))
    assert verdict == "failed"
    assert "at least one sample is needed" in told
    assert "Traceback" in trace
    monkeypatch.setattr("gpubp.benchmark.contract.CHECKED_STEPS", 2)
    monkeypatch.setattr(gpubp, "SGD", lambda rate, sgd=gpubp.SGD: sgd(10 * rate))
    verdict, told = booth.answer("build", (SMALL, 8, "relu", 0))
    assert verdict == "different"
    assert booth.contender is None


def test_a_failure_of_one_leaves_the_others() -> None:
    def answers(command: str, *arguments: Any, seconds: float | None = None) -> Any:
        raise DifferentWorkError("its losses are 1")

    racer: Any = SimpleNamespace(name="peer", setting=Setting(), ask=answers)
    (outcome,) = prepare([racer], (), 0.1)
    take_turns([outcome], 5)
    assert left_out([outcome], 8) == [
        {"device": "cpu", "contender": "peer", "batch": 8, "reason": "its losses are 1"},
    ]


# -- where a GPU pays --------------------------------------------------------------------------------------------------


def row(batch: int, device: str, rate: float, contender: str = "gpubp") -> Result:
    rest = {
        "flops": 0.0,
        "share_of_peak": None,
        "share_of_gemms": None,
        "times_gpubp": None,
        "memory_bytes": None,
        "seconds_per_step": [],
    }
    return Result(batch, device, contender, rate, rate, rate, **rest, steps_per_round=1, losses=[], note="")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cpu", "cuda", "expected"),
    [
        ([1, 1, 1], [2, 2, 2], 1),
        ([3, 3, 3], [2, 4, 4], 2),
        ([3, 3, 3], [4, 2, 4], 4),
        ([3, 3, 3], [4, 4, 3], None),
        ([3, 3], [1, 2, 9], None),  # the CPU was not measured at the last batch size
        ([], [1, 2, 9], None),
    ],
)
def test_crossover(cpu: list[float], cuda: list[float], expected: int | None) -> None:
    rows = [row(2**k, "cpu", rate) for k, rate in enumerate(cpu)]
    rows += [row(2**k, "cuda:0", rate) for k, rate in enumerate(cuda)]
    rows += [row(1, "cpu", 1e9, "torch"), row(4, "cuda:0", 1e9, "torch")]
    assert crossover(rows, "cuda:0") == expected


# -- peers -------------------------------------------------------------------------------------------------------------


@pytest.mark.check
@pytest.mark.filterwarnings("ignore")  # theirs are not ours
@pytest.mark.parametrize(("activation", "optimizer"), list(zip(problem.ACTIVATIONS, OPTIMIZERS, strict=True)))
@pytest.mark.parametrize("name", ["torch", "torch-compile", "torch-graphs", "jax", "sklearn"])
def test_a_peer_does_the_work(name: str, activation: str, optimizer: str) -> None:
    builder = BUILDERS[name]
    pytest.importorskip(builder.module)
    for sizes, batch in ((SMALL, 11), ((4, 3), 5)):
        made = make_problem(sizes, batch, activation, optimizer=optimizer)
        contender = builder.make(made, Setting())  # torch-graphs too: all of it but the capture runs on the CPU
        assert check(contender, made) == pytest.approx(reference(made, 3)[0], abs=1e-5)
        contender.wait()
        assert contender.memory() is None


@pytest.mark.check
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_way_of_pytorch_does_the_work_and_forgets_that_it_was_tried(optimizer: str) -> None:
    torch = pytest.importorskip("torch")
    tried: list[torch_peers.Learner] = []
    made = make_problem(SMALL, 11, optimizer=optimizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_peers, "_fastest", lambda torch, ways, problem, setting: tried.extend(ways) or ways[0])
        torch_peers.eager_learner(made, Setting())
        torch_peers.compiled_learner(made, Setting())
    assert len({way.note for way in tried}) == 5
    x, labels = torch.from_numpy(made.x), torch.from_numpy(made.labels)
    for way in tried:
        for _ in range(2):
            way.update(x, labels)
        way.restart()
        check(Contender(lambda way=way: way.update(x, labels), lambda loss: loss.item(), way.parameters), made)  # type: ignore[misc]


@pytest.mark.check
@pytest.mark.filterwarnings("ignore")
def test_what_xla_plans_to_take() -> None:
    jax = pytest.importorskip("jax")
    a = np.zeros(1000, np.float32)
    assert jax_peer.planned(jax.jit(lambda a: a + 1).lower(a).compile()) == 8000
    assert jax_peer.planned(jax.jit(lambda a: a + 1, donate_argnums=0).lower(a).compile()) == 4000


@pytest.mark.check
def test_two_classes_are_another_network_to_scikit_learn() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(gpubp.GpubpError, match="two classes"):
        BUILDERS["sklearn"](make_problem((4, 3, 2), 5), Setting())
