"""The public surface: names and signatures to the letter, and what each method of a network promises."""

import inspect
import threading
from typing import Any

import numpy as np
import pytest

import gpubp

EMPTY = inspect.Parameter.empty
RNG = np.random.default_rng(5)

MODULES = ["activations", "losses", "optimizers", "schedules", "initializers"]
FUNCTIONS = {
    "check_gradients": "net, x, y, gradients=None",
    "train_test_split": "x, y, test=0.2, seed=0",
    "get_backend": "device='auto'",
    "devices": "",
    "load": "path, device='auto', *, activation=None, output=None",
}
METHODS = {
    "__init__": "sizes, activation='sigmoid', output='softmax', loss=None, *, use_bias=True, masks=None, dropout=0.0, "
    "init=None, dtype='float32', precision=None, device='auto', seed=None",
    "get_parameters": "",
    "set_parameters": "weights, biases=None",
    "forward": "x",
    "backprop": "x, y, sample_weight=None",
    "train_step": "x, y, optimizer, sample_weight=None",
    "apply_gradients": "weight_grads, bias_grads, optimizer",
    "fit": "x, y=None, *, epochs=10, batch_size=128, optimizer='adam', learning_rate=None, schedule=None, "
    "weight_decay=0.0, clip_norm=None, validation=None, early_stopping=None, sample_weight=None, class_weight=None, "
    "metrics=(), shuffle=True, transform=None, callbacks=(), verbose=1",
    "predict": "x, batch_size=None, reject_below=None",
    "predict_proba": "x",
    "evaluate": "x, y, sample_weight=None",
    "from_sklearn": "estimator, device='auto'",
    "to_sklearn": "",
    "save": "path",
    "copy": "",
    "to": "device",
}
BACKPROP = {"loss", "sample_losses", "outputs", "input_grad", "activations", "zs", "deltas", "activation_grads"}
BACKPROP |= {"weight_grads", "bias_grads"}
COMPONENTS = {
    "Activation": {
        *("identity", "sigmoid", "fast_sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu"),
        *("softplus", "silu", "gelu", "exp", "softmax"),
    },
    "Loss": {
        *("squared_error", "absolute_error", "huber", "poisson", "quantile"),
        *("binary_cross_entropy", "cross_entropy"),
    },
    "Optimizer": {"sgd", "rmsprop", "adagrad", "adam", "adamw"},
    "Schedule": {"constant", "linear", "cosine", "one_cycle", "exponential", "step", "inverse"},
    "Initializer": {
        *("uniform", "normal", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal"),
        *("lecun_uniform", "lecun_normal", "zeros"),
    },
}
# The output activation, its number of outputs and targets for it, by task.
TASKS = {
    "classes": ("softmax", 3, lambda n: RNG.integers(0, 3, n)),
    "binary": ("sigmoid", 1, lambda n: RNG.integers(0, 2, n)),
    "labels": ("sigmoid", 3, lambda n: RNG.integers(0, 2, (n, 3))),
    "values": ("identity", 2, lambda n: RNG.normal(size=(n, 2))),
    "value": ("identity", 1, lambda n: RNG.normal(size=n)),
}


def network(task: str = "classes", **settings: Any) -> gpubp.MLP:
    output, outputs, _ = TASKS[task]
    return gpubp.MLP([4, 6, outputs], "tanh", output, **{"dtype": "float64", "device": "cpu", "seed": 3, **settings})


def sample(task: str = "classes", rows: int = 12) -> tuple[Any, Any]:
    return RNG.normal(size=(rows, 4)), TASKS[task][2](rows)


def written(function: Any) -> list[tuple[str, bool, Any]]:
    """A signature without its annotations: name, whether by keyword only, default."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    return [(p.name, p.kind is p.KEYWORD_ONLY, p.default) for p in parameters]


def contract(text: str) -> list[tuple[str, bool, Any]]:
    scope: dict[str, Any] = {}
    exec(f"def f({text}): ...", scope)
    return written(scope["f"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_of_function(name: str) -> None:
    assert written(getattr(gpubp, name)) == contract(FUNCTIONS[name])


@pytest.mark.parametrize("name", METHODS)
def test_signature_of_method(name: str) -> None:
    assert written(getattr(gpubp.MLP, name)) == contract(METHODS[name])


@pytest.mark.parametrize("family", COMPONENTS)
def test_components(family: str) -> None:
    module = getattr(gpubp, next(name for name in MODULES if name.startswith(family.lower()[:4])))
    own = {
        name: member for name, member in getattr(gpubp, family).members.items() if member.__module__.startswith("gpubp")
    }
    assert set(own) == COMPONENTS[family]
    for member in own.values():
        assert getattr(gpubp, member.__name__) is getattr(module, member.__name__) is member


def test_loss_reductions_and_defaults() -> None:
    for loss in COMPONENTS["Loss"]:
        assert inspect.signature(gpubp.Loss.members[loss]).parameters["reduction"].default == "mean"
    assert gpubp.SquaredError().half is False
    assert gpubp.Huber().delta == 1
    assert gpubp.Quantile().q == 0.5
    assert gpubp.LeakyReLU().slope == 0.01
    picked = [gpubp.MLP([2, 2], output=o, device="cpu").loss.name for o in ("softmax", "sigmoid", "identity", "exp")]
    assert picked == ["cross_entropy", "binary_cross_entropy", "squared_error", "squared_error"]


def test_errors() -> None:
    for name in ("DataError", "ShapeError", "DeviceError", "DivergenceError", "ModelFileError"):
        assert issubclass(getattr(gpubp, name), gpubp.GpubpError)
    assert issubclass(gpubp.DataError, ValueError)
    assert issubclass(gpubp.ShapeError, ValueError)
    assert issubclass(gpubp.DivergenceError, RuntimeError)
    assert not issubclass(gpubp.GpubpError, ValueError | RuntimeError)


def test_backprop_fields() -> None:
    net, (x, y) = network(), sample()
    result = net.backprop(x, y)
    assert {name for name in vars(result) if not name.startswith("_")} == BACKPROP
    assert isinstance(result.loss, float)
    assert result.sample_losses.shape == (12,)
    assert result.input_grad.shape == x.shape
    np.testing.assert_array_equal(result.activations[0], x)
    np.testing.assert_array_equal(result.activations[-1], result.outputs)
    assert len(result.activations) == 3
    for layer in range(2):
        np.testing.assert_allclose(result.weight_grads[layer], result.activations[layer].T @ result.deltas[layer])
        np.testing.assert_allclose(result.bias_grads[layer], result.deltas[layer].sum(axis=0))
        np.testing.assert_allclose(result.zs[layer], result.activations[layer] @ net.weights[layer] + net.biases[layer])
    np.testing.assert_allclose(result.activation_grads[0], result.deltas[1] @ net.weights[1].T)
    np.testing.assert_allclose(result.input_grad, result.deltas[0] @ net.weights[0].T)


@pytest.mark.parametrize("task", TASKS)
def test_predict(task: str) -> None:
    net, (x, _) = network(task), sample(task, 50)
    outputs, predicted = net.forward(x), net.predict(x)
    expected = {
        "classes": outputs.argmax(axis=1),
        "binary": (outputs[:, 0] >= 0.5).astype(np.int64),
        "labels": (outputs >= 0.5).astype(np.int64),
        "values": outputs,
        "value": outputs[:, 0],
    }[task]
    np.testing.assert_array_equal(predicted, expected, strict=True)
    np.testing.assert_allclose(net.predict(x, batch_size=7), expected, rtol=1e-12, strict=True)
    if task in ("values", "value"):
        with pytest.raises(gpubp.DataError, match="predict_proba"):
            net.predict_proba(x)
    else:
        probabilities = net.predict_proba(x)
        assert probabilities.shape == (50, 2 if task == "binary" else 3)
        np.testing.assert_allclose(probabilities[:, -outputs.shape[1] :], outputs)
        if task != "labels":
            np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_sigmoid_of_one_half_is_a_one() -> None:
    net = gpubp.MLP([1, 1], output="sigmoid", init="zeros", device="cpu")
    assert net.predict([[3.0]]).tolist() == [1]


@pytest.mark.parametrize("task", ["classes", "binary"])
def test_reject_below(task: str) -> None:
    net, (x, _) = network(task), sample(task, 60)
    winners = net.predict_proba(x).max(axis=1)
    limit = float(np.sort(winners)[30])  # which is itself not smaller than the limit
    rejected = net.predict(x, reject_below=limit)
    np.testing.assert_array_equal(rejected, np.where(winners < limit, -1, net.predict(x)))
    assert 0 < np.count_nonzero(rejected == -1) < 60


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_evaluate(task: str, weighted: bool) -> None:
    net, (x, y) = network(task, dropout=0.5), sample(task, 40)
    w = RNG.uniform(0, 2, 40) if weighted else np.ones(40)
    before = net.get_parameters()
    scores = net.evaluate(x, y, *([w] if weighted else []))
    for kind, kept in zip(net.get_parameters(), before, strict=True):
        for now, then in zip(kind, kept, strict=True):
            np.testing.assert_array_equal(now, then)
    assert all(type(score) is float for score in scores.values())
    assert scores["loss"] == pytest.approx(net.backprop(x, y, w).loss, rel=1e-12)
    o, t = net.forward(x), np.reshape(y, (40, -1)).astype(float)
    if task in ("values", "value"):
        assert set(scores) == {"loss", "rmse", "mae", "r2"}
        # As scikit-learn defines them: outputs averaged uniformly, the mean of the targets weighted.
        mean = (w @ t) / w.sum()
        assert scores["rmse"] == pytest.approx(np.sqrt(np.average(((o - t) ** 2).mean(axis=1), weights=w)))
        assert scores["mae"] == pytest.approx(np.average(np.abs(o - t).mean(axis=1), weights=w))
        assert scores["r2"] == pytest.approx(np.mean(1 - (w @ (t - o) ** 2) / (w @ (t - mean) ** 2)))
    else:
        right = (net.predict(x).reshape(40, -1) == t).all(axis=1)
        assert set(scores) == {"loss", "accuracy"}
        assert scores["accuracy"] == pytest.approx(np.average(right, weights=w))


def test_parameters() -> None:
    net = network(use_bias=[True, False])
    weights, biases = net.get_parameters()
    assert [w.shape for w in weights] == [(4, 6), (6, 3)]
    assert biases[1] is None
    weights[0][...] = 9
    assert not np.any(net.weights[0] == 9), "a copy"
    net.set_parameters(weights)
    assert np.all(net.weights[0] == 9)
    np.testing.assert_array_equal(net.biases[0], biases[0])
    net.set_parameters(weights, [np.arange(6.0), None])
    np.testing.assert_array_equal(net.biases[0], np.arange(6.0))
    net.biases[0][0] = 7
    assert net.get_parameters()[1][0][0] == 7, "a live view"
    kept = net.get_parameters()[0]
    with pytest.raises(gpubp.ShapeError, match=r"weights\[1\]"):
        net.set_parameters([np.zeros((4, 6)), np.zeros((3, 6))])
    np.testing.assert_array_equal(net.weights[0], kept[0], err_msg="nothing is written before all is checked")
    with pytest.raises(gpubp.ShapeError, match=r"biases\[1\].*no bias"):
        net.set_parameters(kept, [np.zeros(6), np.zeros(3)])


def test_copy_and_to() -> None:
    net, (x, y) = network(dropout=0.2), sample()
    twin = net.copy()
    np.testing.assert_array_equal(net.forward(x), twin.forward(x))
    assert twin.seed == net.seed
    optimizer, other = gpubp.Adam(0.1), gpubp.Adam(0.1)
    net.train_step(x, y, optimizer)
    assert not np.array_equal(net.forward(x), twin.forward(x)), "independent"
    assert net.to("cpu") is net
    net.train_step(x, y, optimizer)  # the state followed
    for _ in range(2):
        twin.train_step(x, y, other)
    np.testing.assert_array_equal(net.forward(x), twin.forward(x))


def test_what_is_returned_is_the_users() -> None:
    net, (x, y) = network(), sample()
    first, loss = net.forward(x), net.train_step(x, y, gpubp.SGD(0.1))
    traced = net.backprop(x, y)
    kept = [a.copy() for a in (first, loss, traced.outputs, traced.deltas[0], traced.weight_grads[0])]
    for _ in range(3):
        net.train_step(-x, y, gpubp.SGD(0.5))
        net.forward(-x)
        net.backprop(-x, y)
    for now, then in zip((first, loss, traced.outputs, traced.deltas[0], traced.weight_grads[0]), kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_train_step_and_apply_gradients() -> None:
    net, (x, y) = network(), sample()
    twin, result = net.copy(), net.backprop(x, y)
    loss = net.train_step(x, y, gpubp.SGD(0.25))
    assert loss.shape == ()
    assert float(loss) == pytest.approx(result.loss)
    twin.apply_gradients(result.weight_grads, result.bias_grads, gpubp.SGD(0.25))
    np.testing.assert_allclose(net.forward(x), twin.forward(x), rtol=1e-12)
    np.testing.assert_allclose(twin.weights[0], network().weights[0] - 0.25 * result.weight_grads[0], rtol=1e-12)
    with pytest.raises(gpubp.DataError, match=r"gpubp\.SGD\(0\.1\)"):
        net.train_step(x, y, "sgd")


def test_seed_dtype_and_settings() -> None:
    for dtype in ("float32", "float64"):
        one, other = (gpubp.MLP([3, 4, 2], dtype=dtype, device="cpu", seed=8) for _ in range(2))
        np.testing.assert_array_equal(one.weights[0], other.weights[0])
        assert one.weights[0].dtype == one.forward([[1, 2, 3]]).dtype == dtype
    drawn = {gpubp.MLP([3, 4, 2], device="cpu").seed for _ in range(5)}
    assert len(drawn) == 5
    seed = drawn.pop()
    again = gpubp.MLP([3, 4, 2], device="cpu", seed=seed)
    assert again.seed == seed
    assert not np.array_equal(again.weights[0], gpubp.MLP([3, 4, 2], device="cpu", seed=seed + 1).weights[0])


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_precision_needs_a_gpu(precision: str) -> None:
    with pytest.raises(gpubp.DeviceError, match="precision"):
        gpubp.MLP([2, 2], precision=precision, device="cpu")


def test_lists_by_layer() -> None:
    mask = np.array([[1, 0, 1], [0, 1, 1]])
    net = gpubp.MLP(
        [2, 3, 4, 1],
        ["relu", gpubp.LeakyReLU(0.2)],
        "identity",
        gpubp.Huber(2.0),
        use_bias=[True, False, True],
        masks=[mask, None, None],
        dropout=[0.5, 0.0, 0.25],
        device="cpu",
        seed=0,
    )
    assert [a.name for a in net.activations] == ["relu", "leaky_relu", "identity"]
    assert [b is None for b in net.biases] == [False, True, False]
    assert not np.any(net.weights[0][mask == 0])
    assert np.all(net.weights[0][mask == 1])
    net.fit(RNG.normal(size=(8, 2)), np.zeros(8), epochs=2, verbose=0)
    assert not np.any(net.weights[0][mask == 0])


@pytest.mark.parametrize("kind", ["list", "int", "float32", "float64", "fortran", "strided", "reversed", "read-only"])
def test_any_layout_of_input(kind: str) -> None:
    net, whole = network(), RNG.integers(-4, 5, (10, 4)).astype(float)
    wide = np.zeros((20, 8))
    wide[::2, ::2] = whole
    x = {
        "list": whole.tolist(),
        "int": whole.astype(int),
        "float32": whole.astype(np.float32),
        "float64": whole,
        "fortran": np.asfortranarray(whole),
        "strided": wide[::2, ::2],
        "reversed": whole[::-1].copy()[::-1],
        "read-only": whole.copy(),
    }[kind]
    if kind == "read-only":
        x.flags.writeable = False
    y = np.arange(10) % 3
    outputs = net.forward(x)
    np.testing.assert_array_equal(outputs, net.forward(whole))
    assert type(outputs) is np.ndarray
    assert outputs.dtype == "float64"
    assert net.backprop(x, y.tolist()).loss == net.backprop(whole, y).loss
    net.fit(x, y, epochs=1, verbose=0)
    np.testing.assert_array_equal(whole, x)


def test_kinds_of_labels() -> None:
    net, (x, y) = network(), sample()
    kinds = (y, y[:, None], y.astype(float), y.astype("uint8"), y.tolist())
    losses = [net.backprop(x, labels).loss for labels in kinds]
    assert losses == [losses[0]] * 5
    assert net.backprop(x, np.eye(3)[y]).loss == pytest.approx(losses[0])
    binary, (x, y) = network("binary"), sample("binary")
    assert binary.backprop(x, y).loss == binary.backprop(x, y[:, None].astype(bool)).loss


def test_split() -> None:
    x, y = np.arange(100.0).reshape(50, 2), np.repeat([0, 1, 2], [25, 15, 10])
    x_train, x_test, _, y_test = gpubp.train_test_split(x, y, test=0.2, seed=4)
    assert np.bincount(y_test).tolist() == [5, 3, 2]
    assert len(x_train) == 40
    np.testing.assert_array_equal(np.sort(np.concatenate([x_train, x_test])[:, 0]), x[:, 0])
    np.testing.assert_array_equal(y[(x_test[:, 0] // 2).astype(int)], y_test)
    np.testing.assert_array_equal(gpubp.train_test_split(x, y, test=0.2, seed=4)[1], x_test)
    assert not np.array_equal(gpubp.train_test_split(x, y, test=0.2, seed=5)[1], x_test)
    assert len(gpubp.train_test_split(x, RNG.normal(size=50))[1]) == 10


def test_devices_and_backends() -> None:
    rows = gpubp.devices()
    assert rows[0]["device"] == "cpu"
    assert rows[0]["available"] == "yes"
    assert gpubp.get_backend("cpu").name == "cpu"
    if not any(row["device"].startswith("cuda") and row["available"] == "yes" for row in rows):
        assert rows[1]["reason"]
        assert gpubp.get_backend().name == "cpu"
        assert gpubp.get_backend().fallback == rows[1]["reason"]
        assert gpubp.MLP([1, 1]).fallback
        with pytest.raises(gpubp.DeviceError, match="'cpu' runs on the CPU"):
            gpubp.get_backend("cuda")


def test_threads_take_turns() -> None:
    net, inputs = network(), [RNG.normal(size=(rows, 4)) for rows in (40, 90)]
    expected, wrong = [net.forward(x) for x in inputs], []

    def ask(x: Any, outputs: Any) -> None:
        for _ in range(200):
            same = np.array_equal(net.forward(x), outputs)
            if not same or not np.array_equal(net.predict(x), outputs.argmax(axis=1)):
                wrong.append(len(x))

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
