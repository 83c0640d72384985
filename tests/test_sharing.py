"""Training shared by several processes, here threads: the same results as one, whatever is asked of `fit`."""

import contextlib
import threading
from typing import Any

import numpy as np
import pytest
from crew import Member, run

import gpubp
from gpubp.alone import Alone
from gpubp.backends import get_backend
from gpubp.data import rows as rows_module
from gpubp.data.batches import ArrayBatches

RNG = np.random.default_rng(7)
X, Y, W = RNG.normal(size=(203, 9)), RNG.integers(0, 4, 203), RNG.uniform(0, 2, 203)
X_VAL, Y_VAL = RNG.normal(size=(31, 9)), RNG.integers(0, 4, 31)
W[::5] = 0
SIZES = [1, 2, 3, 5]
EPSILON = np.finfo(np.float64).eps
SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {},
    "plain sgd, which one process folds into its products": {"optimizer": "sgd", "learning_rate": 0.05},
    "momentum": {"optimizer": gpubp.SGD(0.05, momentum=0.9)},
    "weights, of which some are 0": {"sample_weight": W},
    "class weights": {"class_weight": "balanced"},
    "clipping": {"clip_norm": 0.1, "optimizer": "sgd", "sample_weight": W},
    "a last batch of one row": {"batch_size": 101},
    "one batch": {"batch_size": "full"},
    "as the rows lie": {"shuffle": False, "sample_weight": W},
    "validation": {"validation": 0.2, "metrics": ("accuracy",), "early_stopping": 2},
    "validation data": {"validation": (X_VAL, Y_VAL), "metrics": ("accuracy",)},
    "a schedule": {"schedule": "cosine"},
    "a transform that draws": {"transform": lambda x, y, generator: (x + generator.normal(size=x.shape), y)},
    "weight decay": {"optimizer": "adamw"},
}


def network(**options: Any) -> gpubp.MLP:
    given = {"activation": "tanh", "dropout": 0.3, "dtype": "float64", "seed": 5, "device": "cpu", **options}
    return gpubp.MLP([9, 13, 7, 4], **given)


def trained(processes: Alone, options: dict[str, Any], **of_network: Any) -> tuple[Any, Any, list[Any]]:
    net = network(**of_network)
    optimizer = options.get("optimizer", "adam")
    optimizer = (
        type(optimizer)(optimizer.learning_rate, optimizer.momentum) if optimizer != str(optimizer) else optimizer
    )
    settings = {"epochs": 3, "batch_size": 25, "verbose": 0, **options, "optimizer": optimizer}
    history = net.fit(X, Y, **settings)
    return net, history, [view.copy() for view in [*net.weights, *net.biases] if view is not None]


def worst(found: list[Any], wanted: list[Any]) -> float:
    return max(float(abs(a - b).max()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_any_number_of_processes_agrees_with_one(name: str) -> None:
    _, alone, wanted = run(1, lambda processes: trained(processes, SETTINGS[name]))[0]
    for size in SIZES[1:]:
        results = run(size, lambda processes: trained(processes, SETTINGS[name]))
        for _, history, parameters in results:
            assert worst(parameters, results[0][2]) == 0, f"{size} processes do not end with the same bits"
            assert worst(parameters, wanted) < 300 * EPSILON, size
            for column in set(alone.columns) - {"seconds", "samples_per_second"}:
                assert history[column] == pytest.approx(alone[column], rel=1e-12, abs=1e-12), (column, size)
        seconds = {tuple(history["seconds"]) for _, history, _ in results}
        assert len(seconds) == 1, "each process goes by the history of rank 0"


@pytest.mark.parametrize("weights", [None, W], ids=["without weights", "with weights"])
def test_a_sum_of_losses_is_not_divided(weights: Any) -> None:
    loss = gpubp.CrossEntropy(reduction="sum")
    given = {"optimizer": "sgd", "learning_rate": 0.001, "sample_weight": weights}
    wanted = run(1, lambda processes: trained(processes, given, loss=loss))[0]
    for _, history, parameters in run(3, lambda processes: trained(processes, given, loss=loss)):
        assert worst(parameters, wanted[2]) < 300 * EPSILON
        assert history["loss"] == pytest.approx(wanted[1]["loss"], rel=1e-12)


def test_masks_and_missing_biases() -> None:
    masks = [RNG.integers(0, 2, (9, 13)), None, None]
    given = {"masks": masks, "use_bias": [True, False, True]}
    wanted = run(1, lambda processes: trained(processes, {}, **given))[0]
    for net, _, parameters in run(2, lambda processes: trained(processes, {}, **given)):
        assert worst(parameters, wanted[2]) < 300 * EPSILON
        assert not net.weights[0][masks[0] == 0].any()


@pytest.mark.parametrize("batch_size", [25, 101])
def test_in_float32_with_compiled_kernels(batch_size: int) -> None:
    """Also where the last batch, of one row, leaves nothing for two of three."""
    given = {"sample_weight": W, "clip_norm": 0.5, "batch_size": batch_size}
    wanted = run(1, lambda processes: trained(processes, given, dtype="float32"))[0]
    first, *others = run(3, lambda processes: trained(processes, given, dtype="float32"))
    assert worst(first[2], wanted[2]) < 2000 * np.finfo(np.float32).eps
    assert all(worst(parameters, first[2]) == 0 for _, _, parameters in others)


def test_an_iterable_of_batches_is_cut() -> None:
    batches = [(X[start : start + 20], Y[start : start + 20], W[start : start + 20]) for start in range(0, 203, 20)]

    def stream(processes: Alone) -> Any:
        net = network()
        return net.fit(batches, epochs=2, verbose=0), [weight.copy() for weight in net.weights]

    wanted = run(1, stream)[0]
    for history, weights in run(4, stream):
        assert worst(weights, wanted[1]) < 300 * EPSILON
        assert history["loss"] == pytest.approx(wanted[0]["loss"], rel=1e-12)


def test_one_sum_a_step_and_no_other() -> None:
    """Of all gradients, the cost and the sum of weights at once."""

    def counted(processes: Alone) -> Any:
        trained(processes, {"sample_weight": W, "validation": 0.1})
        return processes

    steps = 3 * -(-int(203 * 0.9) // 25)
    for processes in run(2, counted):
        assert isinstance(processes, Member)
        assert processes.sums == steps


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [5, 8, 25, 203])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_row_is_read_by_one_process(size: int, batch: int, shuffle: bool) -> None:
    numbers = np.arange(203.0)[:, None]

    class Part(Alone):
        def __init__(self, rank: int) -> None:
            self.rank, self.size = rank, size

    backend = get_backend("cpu")
    made = [
        ArrayBatches(backend, numbers, numbers, None, batch, shuffle, 3, processes)
        for processes in [Alone(), *map(Part, range(size))]
    ]
    for whole, *parts in zip(*(batches.epoch(2) for batches in made), strict=True):
        assert np.array_equal(np.concatenate([x.copy() for x, _, _ in parts]), whole[0])


def test_a_process_reads_its_rows_from_a_file_and_no_others(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(6000, 3)))
    y = np.arange(6000) % 4
    read: dict[Any, list[Any]] = {}
    usual = rows_module.Rows.__getitem__

    def spy(self: Any, rows: Any) -> Any:
        index = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        read.setdefault(threading.get_ident(), []).append(index)
        return usual(self, rows)

    monkeypatch.setattr(rows_module, "IN_MEMORY", 1000)
    monkeypatch.setattr(rows_module.Rows, "__getitem__", spy)

    def work(processes: Alone) -> Any:
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
        net = gpubp.MLP([3, 4], seed=0, device="cpu")
        net.fit(x, y, epochs=1, batch_size=100, verbose=0)
        return [weight.copy() for weight in net.weights]

    wanted = run(1, work)[0]
    read.clear()
    for weights in run(4, work):
        assert worst(weights, wanted) < 100 * np.finfo(np.float32).eps
    # Its quarter is looked through, 1,024 rows are compared, and its quarter of each step's rows is learned from.
    counts = [sum(map(len, each)) for each in read.values()]
    assert counts == [1500 + 1024 + 1500] * 4


# -- what must be the same ---------------------------------------------------------------------------------------------


# In rank 1: options of the network, options of fit, and data.
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[Any, Any]]] = {
    "x": ({}, {}, (X + (np.arange(203) == 150)[:, None] * 1e-9, Y)),
    "y": ({}, {}, (X, (Y + 1) % 4)),
    "rows": ({}, {}, (X[:-1], Y[:-1])),
    "epochs": ({}, {"epochs": 4}, (X, Y)),
    "batch_size": ({}, {"batch_size": 30}, (X, Y)),
    "sample_weight": ({}, {"sample_weight": W}, (X, Y)),
    "learning_rate": ({}, {"learning_rate": 0.5}, (X, Y)),
    "validation x": ({}, {"validation": (X_VAL + 1, Y_VAL)}, (X, Y)),
    "activations": ({"activation": "relu"}, {}, (X, Y)),
}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x", "x is data with the checksum"),
        ("y", "y is data with the checksum"),
        ("rows", r"x is of shape \(203, 9\) in rank 0 and of shape \(202, 9\) in rank 1"),
        ("epochs", "epochs is 2 in rank 0 and 4 in rank 1"),
        ("batch_size", "batch_size is 25 in rank 0 and 30 in rank 1"),
        ("sample_weight", r"sample_weight is missing in rank 0 and of shape \(203, 1\) in rank 1"),
        ("learning_rate", "learning_rate is 0.001 in rank 0 and 0.5 in rank 1"),
        ("validation x", "validation x is data with the checksum"),
        ("activations", r"activations is \['tanh', 'tanh', 'softmax'\] in rank 0 and \['relu', 'relu', 'softmax'\]"),
    ],
)
def test_what_differs_is_named_in_all_processes(name: str, said: str) -> None:
    def work(processes: Alone) -> None:
        usual: Any = ({}, {}, (X, Y))
        of_net, of_fit, data = OTHERS[name] if processes.rank == 1 else usual
        given = {"epochs": 2, "batch_size": 25, "validation": (X_VAL, Y_VAL), "verbose": 0, **of_fit}
        network(**of_net).fit(*data, **given)

    for error in run(3, work):
        assert isinstance(error, gpubp.DataError)
        with pytest.raises(gpubp.DataError, match=said):
            raise error


def test_rows_that_stay_on_disk_are_compared_by_some_of_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.normal(size=(3000, 3))
    np.save(tmp_path / "0.npy", x)
    np.save(tmp_path / "1.npy", x[::-1])
    monkeypatch.setattr(rows_module, "IN_MEMORY", 1000)

    def work(processes: Alone) -> None:
        mapped = np.load(tmp_path / f"{processes.rank}.npy", mmap_mode="r")
        gpubp.MLP([3, 4], seed=0, device="cpu").fit(mapped, np.zeros(3000, int), epochs=1, verbose=0)

    assert all("x is data with the checksum" in str(error) for error in run(2, work))


def test_too_few_rows_for_the_processes() -> None:
    def work(processes: Alone) -> None:
        network().fit(X[:3], Y[:3], verbose=0)

    for error in run(4, work):
        assert "x has 3 rows for 4 processes" in str(error)

    def small(processes: Alone) -> None:
        network().fit(X, Y, batch_size=3, verbose=0)

    for error in run(4, small):
        assert "batch_size=3 is less than the 4 processes" in str(error)


def test_a_process_whose_network_went_its_own_way_is_found() -> None:
    def work(processes: Alone) -> None:
        def meddle(net: gpubp.MLP, record: dict[str, Any]) -> None:
            if processes.rank == 2 and record["epoch"] == 2:
                net.biases[1][3] += 1e-14

        network().fit(X, Y, epochs=4, callbacks=[meddle], verbose=0)

    for error in run(3, work):
        assert isinstance(error, gpubp.GpubpError)
        assert "after epoch 3 the parameters of rank 2 are no longer those of rank 0" in str(error)


def test_batches_that_one_process_lacks() -> None:
    batches = [(X[start : start + 20], Y[start : start + 20]) for start in range(0, 200, 20)]

    def work(processes: Alone) -> None:
        network().fit(batches[: 10 - processes.rank], epochs=1, verbose=0)

    for error in run(2, work):
        assert "one has 20 rows in rank 0, none in rank 1" in str(error)


@pytest.mark.parametrize("how", ["batches", "transform"])
def test_batches_that_are_others_in_one_process(how: str) -> None:
    """As from a generator without a seed: the first of each epoch are compared."""

    def work(processes: Alone) -> None:
        if how == "transform":
            network().fit(X, Y, transform=lambda x: x + processes.rank, verbose=0)
        else:
            network().fit([(X + processes.rank, Y)], epochs=1, verbose=0)

    for error in run(2, work):
        assert "the first x of epoch 1 is data with the checksum" in str(error)


def test_all_start_from_the_network_of_rank_0() -> None:
    """Its seed, its parameters, and what its optimizer has learned."""

    def work(processes: Alone) -> Any:
        net, optimizer = network(seed=None), gpubp.Adam()
        for _ in range(3 if processes.rank == 0 else 0):
            net.train_step(X, Y, optimizer)
        before = net.seed, [weight.copy() for weight in net.weights]
        net.fit(X, Y, optimizer=optimizer, epochs=1, verbose=0)
        return before, net.seed, net._network.steps, optimizer.steps, [weight.copy() for weight in net.weights]

    first, *others = run(3, work)
    for other in others:
        assert other[0][0] != first[0][0], "another seed was drawn"
        assert other[1:4] == (first[0][0], *first[2:4])
        assert worst(other[4], first[4]) == 0


# -- what one process wants and all do ---------------------------------------------------------------------------------


def test_a_callback_of_one_process_stops_all() -> None:
    def work(processes: Alone) -> Any:
        stop = [lambda net, record: processes.rank == 1 and record["epoch"] == 2]
        return network().fit(X, Y, epochs=9, callbacks=stop, verbose=0)

    assert [(history.stopped, len(history)) for history in run(3, work)] == [("callback", 2)] * 3


def test_an_interruption_of_one_process_ends_all_after_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    own = threading.local()
    monkeypatch.setattr("gpubp.training.interruptible", lambda: contextlib.nullcontext(lambda: own.pressed))

    class Press(gpubp.Callback):
        def __init__(self, rank: int) -> None:
            self.rank = rank

        def on_step_end(self, net: gpubp.MLP, step: int, cost: Any) -> None:
            own.pressed = own.pressed or (self.rank == 2 and step == 12)

    def work(processes: Alone) -> Any:
        own.pressed = False
        net = network()
        return net.fit(X, Y, epochs=9, batch_size=25, callbacks=[Press(processes.rank)], verbose=0), net._network.steps

    for history, steps in run(3, work):
        assert (history.stopped, len(history), steps) == ("interrupted", 2, 12)


def test_a_divergence_is_told_alike_by_all() -> None:
    """Though it is in the rows of rank 3 alone."""
    x = X.copy()
    x[148] = 1e308
    given = {"optimizer": "sgd", "shuffle": False, "batch_size": 50, "verbose": 0}

    def work(processes: Alone) -> None:
        network(activation="relu", dropout=0.0).fit(x, Y, **given)

    errors = run(4, work)
    assert [type(error) for error in errors] == [gpubp.DivergenceError] * 4
    assert len(set(map(str, errors))) == 1
    assert "at step 3 the outputs of layer 1 of 3 (relu) are not finite" in str(errors[0])


def test_only_rank_0_writes_and_all_resume(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def work(processes: Alone, epochs: int, folder: str, verbose: int = 1) -> Any:
        path = tmp_path / (folder if processes.rank == 0 else f"{folder}-{processes.rank}.safetensors")
        net = network(seed=processes.rank)
        history = net.fit(X, Y, epochs=epochs, callbacks=[gpubp.Checkpoint(path, resume=True)], verbose=verbose)
        return len(history), [weight.copy() for weight in net.weights]

    run(3, lambda processes: work(processes, 2, "run.safetensors"))
    assert len(capsys.readouterr().err.splitlines()) == 2, "one line an epoch, of rank 0"
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]
    resumed = run(3, lambda processes: work(processes, 5, "run.safetensors"))
    whole = run(3, lambda processes: work(processes, 5, "whole.safetensors"))
    for (epochs, weights), (_, wanted) in zip(resumed, whole, strict=True):
        assert epochs == 5
        assert worst(weights, wanted) == 0
    for size in (1, 2):  # by other numbers of processes, which add up in another order
        copy = tmp_path / f"by-{size}.safetensors"
        run(3, lambda processes, name=copy.name: work(processes, 2, name, 0))
        for _, weights in run(size, lambda processes, name=copy.name: work(processes, 5, name, 0)):
            assert worst(weights, whole[0][1]) < 300 * EPSILON
