"""What cannot be used is refused, by a GpubpError of the right class that names the parameter and the remedy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpubp

DATA, SHAPE, DEVICE = gpubp.DataError, gpubp.ShapeError, gpubp.DeviceError
X, Y = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 2, 0, 1, 2])
ROWS = np.eye(3)[Y]
HOLE = X.copy()
HOLE[4, 1] = np.nan
RAGGED = [[1.0, 2.0], [3.0]]


def mlp(*args: Any, **settings: Any) -> gpubp.MLP:
    return gpubp.MLP(*args, **{"device": "cpu", "seed": 0, **settings})


def softmax() -> gpubp.MLP:
    return mlp([2, 4, 3])


def sigmoid(outputs: int = 1) -> gpubp.MLP:
    return mlp([2, 4, outputs], output="sigmoid")


def linear(outputs: int = 1) -> gpubp.MLP:
    return mlp([2, 4, outputs], output="identity")


def fit(net: gpubp.MLP | None = None, x: Any = X, y: Any = Y, **settings: Any) -> gpubp.History:
    return (net or softmax()).fit(x, y, **{"epochs": 1, "verbose": 0, **settings})


def backprop(x: Any = X, y: Any = Y, w: Any = None) -> gpubp.mlp.Backprop:
    return softmax().backprop(x, y, w)


def step(optimizer: Any = None) -> Any:
    return softmax().train_step(X, Y, optimizer or gpubp.SGD(0.1))


def used(optimizer: gpubp.Optimizer) -> gpubp.Optimizer:
    softmax().train_step(X, Y, optimizer)
    return optimizer


def exhausted() -> gpubp.History:
    return softmax().fit(((X, Y) for _ in range(2)), epochs=2, verbose=0)


# What is done, the error's class, and words that its message must hold: the parameter, the value, the remedy.
CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    # structure
    (lambda: mlp([3]), DATA, "sizes .* at least 2 .*784, 256, 10"),
    (lambda: mlp(7), DATA, "sizes"),
    (lambda: mlp("784"), DATA, "sizes"),
    (lambda: mlp([3, 0, 1]), DATA, "sizes"),
    (lambda: mlp([3, 2.5]), DATA, r"sizes .*2\.5"),
    (lambda: mlp([3, True]), DATA, "sizes"),
    (lambda: mlp([3, None]), DATA, "sizes"),
    (lambda: mlp([2, 3, 3, 2], ["relu"]), DATA, "activation has 1 .* 2"),
    (lambda: mlp([2, 3, 2], "sigmoyd"), DATA, "sigmoyd.*did you mean 'sigmoid'"),
    (lambda: mlp([2, 3, 2], gpubp.Sigmoid), DATA, "activation must be an object"),
    (lambda: mlp([2, 3, 2], None), DATA, "activation must be a name"),
    (lambda: mlp([2, 3, 2], output="sofmax"), DATA, "did you mean 'softmax'"),
    (lambda: mlp([2, 2], loss="cross_entorpy"), DATA, "did you mean 'cross_entropy'"),
    (lambda: mlp([2, 2], loss=3), DATA, "loss must be a name"),
    (lambda: mlp([2, 2], output="sigmoid", loss="cross_entropy"), DATA, "output='softmax'"),
    (lambda: mlp([2, 2], output="tanh", loss="binary_cross_entropy"), DATA, "tanh.*sigmoid"),
    (lambda: mlp([2, 2], output="identity", loss="poisson"), DATA, "identity.*exp"),
    (lambda: mlp([2, 2], use_bias=[True, True]), DATA, "use_bias has 2 .* 1"),
    (lambda: mlp([2, 2], use_bias="yes"), DATA, "use_bias .*yes"),
    (lambda: mlp([2, 2], masks=[np.ones((3, 2))]), SHAPE, r"masks\[0\] .*\(3, 2\).*\(2, 2\)"),
    (lambda: mlp([2, 2], masks=[np.full((2, 2), 0.5)]), DATA, r"masks\[0\].*0 and 1"),
    (lambda: mlp([2, 2], masks=[RAGGED]), DATA, r"masks\[0\]"),
    (lambda: mlp([2, 2], masks=[[["a", "b"], ["c", "d"]]]), DATA, r"masks\[0\]"),
    (lambda: mlp([2, 2], masks=[None, None]), DATA, "masks has 2"),
    (lambda: mlp([2, 3, 2], dropout=1.0), DATA, r"dropout .*\[0, 1\).*1\.0"),
    (lambda: mlp([2, 3, 2], dropout=-0.1), DATA, "dropout"),
    (lambda: mlp([2, 3, 2], dropout=float("nan")), DATA, "dropout"),
    (lambda: mlp([2, 3, 2], dropout="half"), DATA, "dropout .*half"),
    (lambda: mlp([2, 3, 2], dropout=[0.5]), DATA, "dropout has 1 .* 2"),
    (lambda: mlp([2, 2], init="xavier"), DATA, "initializer 'xavier'.*did you mean 'xavier_"),
    (lambda: mlp([2, 2], dtype="float16"), DATA, "dtype .*float16"),
    (lambda: mlp([2, 2], dtype="double-ish"), DATA, "dtype .*double-ish"),
    (lambda: mlp([2, 2], dtype=None), DATA, "dtype .*None"),
    (lambda: mlp([2, 2], seed=-1), DATA, "seed .*-1"),
    (lambda: mlp([2, 2], seed="lucky"), DATA, "seed .*lucky"),
    (lambda: mlp([2, 2], seed=1.5), DATA, r"seed .*1\.5"),
    (lambda: mlp([2, 2], seed=2**64), DATA, "seed"),
    (lambda: mlp([2, 2], device="gpu"), DATA, "device .*gpu"),
    (lambda: mlp([2, 2], device="cuda:x"), DATA, "device .*cuda:x"),
    (lambda: mlp([2, 2], device="cuda:²"), DATA, "device .*cuda:²"),
    (lambda: mlp([2, 2], device=None), DATA, "device .*None"),
    (lambda: mlp([2, 2], device="cuda:999"), DEVICE, "cuda:999.*'cpu' runs on the CPU"),
    (lambda: mlp([2, 2], precision="tf32"), DEVICE, "precision='tf32'.*leave it out"),
    # inputs
    (lambda: softmax().forward(X[0]), SHAPE, r"x has shape \(2,\).*x\[None, :\]"),
    (lambda: softmax().forward(X.T), SHAPE, r"x has shape \(2, 6\), but \(N, 2\)"),
    (lambda: softmax().forward(3.0), SHAPE, r"x has shape \(\)"),
    (lambda: softmax().forward(None), DATA, "x has dtype object"),
    (lambda: softmax().forward(np.zeros((5, 1, 2))), SHAPE, r"x\.reshape\(len\(x\), -1\)"),
    (lambda: softmax().forward(np.zeros((0, 1, 2))), SHAPE, r"x has shape \(0, 1, 2\)"),
    (lambda: mlp([1, 2]).forward([1.0, 2.0, 3.0]), SHAPE, r"x\[:, None\]"),
    (lambda: softmax().forward(RAGGED), DATA, "x is not a rectangular"),
    (lambda: softmax().forward([["a", "b"]]), DATA, "x has dtype <U1.*numbers"),
    (lambda: softmax().forward(np.array([["a", "b"]])), DATA, "x has dtype <U1.*numbers"),
    (lambda: softmax().forward(np.array([["1", "b"]], object)), DATA, "x has dtype object.*convert"),
    (lambda: softmax().forward(X * 1j), DATA, "x has dtype complex128"),
    (lambda: softmax().forward({"a": 1}), DATA, "x has dtype object"),
    (lambda: softmax().forward(np.zeros((1, 2), "M8[s]")), DATA, "x has dtype datetime"),
    (lambda: backprop(np.zeros((0, 2)), []), DATA, "x is empty"),
    (lambda: fit(x=np.zeros((0, 2)), y=[]), DATA, "x is empty"),
    (lambda: fit(x=HOLE), DATA, r"x .*row 4, column 1 \(nan\)"),
    (lambda: fit(x=np.where(np.isnan(HOLE), np.inf, X)), DATA, r"x .*row 4, column 1 \(inf\)"),
    (lambda: fit(x=np.where(np.isnan(HOLE), 1e300, X)), DATA, r"x .*row 4, column 1 \(inf\)"),  # in float32
    (lambda: fit(y=None), DATA, "y is missing"),
    (lambda: fit(x=X.tolist(), y=None), SHAPE, "x has shape"),
    (lambda: softmax().predict(X, batch_size=0), DATA, "batch_size .*0"),
    (lambda: softmax().predict(X, batch_size=2.5), DATA, r"batch_size .*2\.5"),
    (lambda: softmax().predict(X, reject_below="x"), DATA, "reject_below .*x"),
    (lambda: softmax().predict(X, reject_below=1.5), DATA, r"reject_below .*1\.5"),
    (lambda: linear().predict(X, reject_below=0.5), DATA, "reject_below needs"),
    (lambda: sigmoid(2).predict(X, reject_below=0.5), DATA, "reject_below needs"),
    (lambda: linear().predict_proba(X), DATA, "predict_proba .*use predict"),
    # targets
    (lambda: backprop(y=Y[:-1]), SHAPE, r"y has shape \(5,\).*6 rows"),
    (lambda: backprop(y=3), SHAPE, r"y has shape \(\)"),
    (lambda: backprop(y=None), DATA, "y has dtype object"),
    (lambda: backprop(y=Y + 1), DATA, r"labels from 1 to 3.*0\.\.2"),
    (lambda: backprop(y=-Y), DATA, "labels from -2 to 0"),
    (lambda: backprop(y=Y + 0.5), DATA, "y .*fractions.*output='identity'"),
    (lambda: backprop(y=np.where(Y == 1, np.nan, Y)), DATA, "y .*class indices"),
    (lambda: backprop(y=list("abcabc")), DATA, "y has dtype <U1"),
    (lambda: backprop(y=np.array(list("abcabc"))), DATA, "y has dtype <U1"),
    (lambda: backprop(y=Y.astype(object)), DATA, "y has dtype object"),
    (lambda: backprop(y=[[0], [1, 2]] * 3), DATA, "y is not a rectangular"),
    (lambda: backprop(y=np.zeros((6, 4))), SHAPE, r"y has shape \(6, 4\).*\(6, 3\)"),
    (lambda: backprop(y=ROWS * 0.9), DATA, "y must sum to 1.*output='sigmoid'"),
    (lambda: backprop(y=ROWS * 3 - 2 / 3), DATA, r"y runs from .*\[0, 1\]"),
    (lambda: backprop(y=ROWS.astype(complex)), DATA, "y has dtype complex"),
    (lambda: sigmoid().backprop(X, Y), DATA, r"y runs from 0 to 2.*\[0, 1\].*map"),
    (lambda: sigmoid().backprop(X, -Y.clip(0, 1)), DATA, "y runs from -1"),
    (lambda: sigmoid(2).backprop(X, Y.clip(0, 1)), SHAPE, r"y has shape \(6,\).*\(6, 2\)"),
    (lambda: mlp([2, 1]).backprop(X, Y), DATA, "1 outputs.*output='sigmoid'"),
    (lambda: linear().backprop(X, HOLE[:, 1]), DATA, "y .*not finite.*row 4"),
    (lambda: linear(2).backprop(X, Y), SHAPE, r"y has shape \(6,\).*\(6, 2\)"),
    (lambda: linear().backprop(X, np.array([["a"]] * 6)), DATA, "y has dtype <U1"),
    (lambda: mlp([2, 1], output="exp", loss="poisson").backprop(X, -Y), DATA, "y runs from -2"),
    # weights of samples and classes
    (lambda: backprop(w=[1.0, 2.0]), SHAPE, r"sample_weight has shape \(2,\).*6"),
    (lambda: backprop(w=np.ones((6, 3))), SHAPE, "sample_weight"),
    (lambda: backprop(w=-np.ones(6)), DATA, "sample_weight .*negative.*-1"),
    (lambda: backprop(w=np.where(Y == 1, np.nan, 1)), DATA, "sample_weight .*not finite.*row 1"),
    (lambda: backprop(w=list("abcabc")), DATA, "sample_weight has dtype"),
    (lambda: softmax().evaluate(X, Y, [1.0]), SHAPE, "sample_weight"),
    (lambda: fit(class_weight="even"), DATA, "class_weight .*balanced.*even"),
    (lambda: fit(class_weight={3: 1.0}), DATA, r"class_weight .*3.*0\.\.2"),
    (lambda: fit(class_weight={0: -1.0}), DATA, r"class_weight\[0\].*-1"),
    (lambda: fit(linear(), y=Y * 1.0, class_weight="balanced"), DATA, "class_weight .*sample_weight"),
    # settings of fit
    (lambda: fit(epochs=0), DATA, "epochs .*0"),
    (lambda: fit(epochs=1.5), DATA, r"epochs .*1\.5"),
    (lambda: fit(batch_size=0), DATA, 'batch_size .*"full".*0'),
    (lambda: fit(batch_size="all"), DATA, "batch_size .*all"),
    (lambda: fit(batch_size=np.ones(3)), DATA, "batch_size"),
    (lambda: fit(optimizer="adamm"), DATA, "did you mean 'adam'"),
    (lambda: fit(optimizer=gpubp.Adam), DATA, "optimizer must be an object, got the class Adam; call it"),
    (lambda: fit(learning_rate=0), DATA, "learning_rate .*0"),
    (lambda: fit(learning_rate=float("nan")), DATA, "learning_rate .*nan"),
    (lambda: fit(learning_rate="fast"), DATA, "learning_rate .*fast"),
    (lambda: fit(optimizer=gpubp.SGD(0.1), learning_rate=0.1), DATA, "learning_rate and weight_decay .*give its name"),
    (lambda: fit(optimizer=gpubp.SGD(0.1), weight_decay=0.1), DATA, "learning_rate and weight_decay .*give its name"),
    (lambda: fit(weight_decay=-1), DATA, "weight_decay .*-1"),
    (lambda: fit(clip_norm=0), DATA, "clip_norm .*0"),
    (lambda: fit(schedule="cosin"), DATA, "did you mean 'cosine'"),
    (lambda: fit(schedule=gpubp.schedules.Cosine), DATA, "schedule must be"),
    (lambda: fit(schedule=3), DATA, "schedule must be"),
    (lambda: fit(validation=0.0), DATA, r"fraction .*0\.0"),
    (lambda: fit(validation=1.0), DATA, r"fraction .*1\.0"),
    (lambda: fit(validation=0.99), DATA, "fraction"),
    (lambda: fit(validation=True), DATA, "validation must be"),
    (lambda: fit(validation=X), DATA, "validation must be"),
    (lambda: fit(validation=(HOLE, Y)), DATA, "validation x .*row 4"),
    (lambda: fit(early_stopping=0), DATA, "early_stopping .*0"),
    (lambda: fit(early_stopping="soon"), DATA, "early_stopping .*soon"),
    (lambda: gpubp.EarlyStopping(min_delta=-1), DATA, "min_delta .*-1"),
    (lambda: gpubp.EarlyStopping(min_delta="x"), DATA, "min_delta .*x"),
    (lambda: fit(early_stopping=gpubp.EarlyStopping(monitor="acc")), DATA, "acc.*known: .*loss"),
    (lambda: fit(metrics="acuracy"), DATA, "did you mean 'accuracy'"),
    (lambda: fit(metrics=None), DATA, "metrics .*None"),
    (lambda: fit(metrics=[3]), DATA, "metric 3"),
    (lambda: fit(callbacks=None), DATA, "callbacks .*None"),
    (lambda: fit(callbacks=[3]), DATA, "callback .*3"),
    (lambda: fit(transform=3), DATA, "transform must be a function.*3"),
    (lambda: fit(transform=lambda: X), DATA, "transform must take"),
    (lambda: fit(transform=lambda x: x[:, :1]), SHAPE, "x has shape"),
    (lambda: fit(transform=lambda x, y: x), DATA, r"transform must return \(x, y\)"),
    (lambda: fit(transform=lambda x: "text"), DATA, "x has dtype <U"),
    (lambda: fit(x=[(X, Y)], y=None, sample_weight=np.ones(6)), DATA, r"sample_weight .*yield \(x, y, weights\)"),
    (lambda: fit(x=[(X, Y)], y=None, class_weight="balanced"), DATA, "class_weight"),
    (lambda: fit(x=[(X, Y)], y=None, validation=0.5), DATA, "validation"),
    (lambda: fit(x=[(X,)], y=None), DATA, "batch 1 of x is not"),
    (lambda: fit(x=[], y=None), DATA, "x gave no batches"),
    (exhausted, DATA, "generator.*epochs=2.*list"),
    (lambda: fit(x=((X, Y) for _ in range(2)), y=None, schedule="cosine"), DATA, "cosine.*number of steps.*function"),
    # parameters, steps, splits
    (lambda: step("sgd"), DATA, r"optimizer .*gpubp\.SGD\(0\.1\).*sgd"),
    (lambda: step(used(gpubp.Adam())), DATA, r"another network.*reset\(\)"),
    (lambda: softmax().set_parameters(None), DATA, "weights"),
    (lambda: softmax().set_parameters([np.zeros((2, 4))]), SHAPE, "weights has 1 .* 2 layers"),
    (lambda: softmax().set_parameters([np.zeros((2, 4)), None]), SHAPE, r"weights\[1\] .*\(4, 3\)"),
    (lambda: softmax().set_parameters([np.zeros((4, 2)), np.zeros((4, 3))]), SHAPE, r"weights\[0\] .*\(2, 4\)"),
    (lambda: linear().set_parameters([np.full((2, 4), 1e300), np.zeros((4, 1))]), DATA, r"weights\[0\] .*not finite"),
    (lambda: mlp([2, 2]).set_parameters([RAGGED]), DATA, r"weights\[0\] is not a rectangular"),
    (lambda: mlp([2, 2]).set_parameters([[["a", "b"], ["c", "d"]]]), DATA, r"weights\[0\] has dtype"),
    (lambda: mlp([2, 2]).apply_gradients([np.eye(2)], [None], gpubp.SGD(0.1)), SHAPE, r"bias_grads\[0\]"),
    (lambda: mlp([2, 2]).apply_gradients([np.eye(2)], [np.zeros(2)], "sgd"), DATA, "optimizer"),
    (lambda: gpubp.train_test_split(X, Y[:-1]), SHAPE, "x has 6 rows and y has 5"),
    (lambda: gpubp.train_test_split(X, Y, test=1.0), DATA, r"fraction .*1\.0"),
    (lambda: gpubp.train_test_split(X, Y, test="some"), DATA, "fraction .*some"),
    (lambda: gpubp.train_test_split(X, Y, seed=-1), DATA, "seed .*-1"),
    (lambda: gpubp.train_test_split(RAGGED, [0, 1]), DATA, "x is not a rectangular"),
    (lambda: gpubp.train_test_split(3, 4), SHAPE, "x has shape"),
    (lambda: gpubp.get_backend(0), DATA, "device .*0"),
    (lambda: gpubp.check_gradients(softmax(), X, Y, gradients=3), SHAPE, "weight_grads, bias_grads"),
    (lambda: gpubp.check_gradients(mlp([2, 2]), X, Y % 2, ([RAGGED], None)), DATA, r"weight_grads\[0\]"),
    # components
    (lambda: gpubp.SGD(-1), DATA, "learning_rate .*-1"),
    (lambda: gpubp.SGD(0.1, nesterov=True), DATA, r"momentum=0\.9"),
    (lambda: gpubp.SGD(0.1, momentum=1.1), DATA, r"momentum .*1"),
    (lambda: gpubp.Adam(beta1=1.0), DATA, "beta1"),
    (lambda: gpubp.LeakyReLU(0), DATA, "slope .*greater than 0"),
    (lambda: gpubp.ELU(-1), DATA, "alpha .*-1"),
    (lambda: gpubp.Huber(0), DATA, "delta .*0"),
    (lambda: gpubp.Quantile(1), DATA, "q .*1"),
    (lambda: gpubp.SquaredError(reduction="max"), DATA, "reduction .*'mean' or 'sum'.*max"),
    (lambda: gpubp.schedules.Linear(warmup=1), DATA, "warmup .*1"),
    (lambda: gpubp.schedules.Step(drops=0), DATA, "drops .*0"),
    (lambda: gpubp.schedules.Exponential(0), DATA, "final .*0"),
    (lambda: gpubp.schedules.Inverse(0), DATA, "power .*0"),
    (lambda: gpubp.initializers.Uniform(-1), DATA, "scale .*-1"),
    (lambda: gpubp.elementwise("dy y"), DATA, "dy, y -> dz"),
]


@pytest.mark.parametrize("number", range(len(CALLS)), ids=[f"{message:.40}" for _, _, message in CALLS])
def test_refused(number: int) -> None:
    call, error, message = CALLS[number]
    with pytest.raises(error, match=message) as raised:
        call()
    assert isinstance(raised.value, gpubp.GpubpError)
    assert len(str(raised.value)) > 20


@pytest.mark.parametrize("method", ["predict", "predict_proba", "evaluate"])
def test_nan_is_not_decided_upon(method: str) -> None:
    net, hole = gpubp.MLP([2, 3, 2], device="cpu", seed=0), np.array([[0.0, 1.0], [np.nan, 0.0]])
    with pytest.raises(gpubp.DataError, match="row 1, column 0"):
        getattr(net, method)(*([hole] if method != "evaluate" else [hole, [0, 1]]))


@pytest.mark.parametrize(
    ("output", "metric", "message"),
    [
        ("softmax", "r2", "tells classes; use 'accuracy'"),
        ("identity", "accuracy", "predicts numbers; use"),
        ("softmax", lambda targets, outputs: outputs[:, 0], "must return one number"),
    ],
)
def test_metrics_that_do_not_fit(output: str, metric: Any, message: str) -> None:
    net = gpubp.MLP([2, 2], output=output, device="cpu", seed=0)
    y = np.array([0, 1]) if output == "softmax" else np.zeros((2, 2))
    with pytest.raises(gpubp.DataError, match=message):
        net.fit(np.eye(2), y, metrics=[metric], verbose=0)


@pytest.mark.parametrize("called", ["mse", "MSE", "Squared_Error"])
def test_names_from_elsewhere(called: str) -> None:
    with pytest.raises(gpubp.DataError, match="did you mean 'squared_error'"):
        gpubp.MLP([2, 2], output="identity", loss=called)


def test_a_misspelt_hook() -> None:
    with pytest.raises(gpubp.DataError, match=r"Watcher\.on_epoch_finished .*did you mean 'on_epoch_end'"):

        class Watcher(gpubp.Callback):
            def on_epoch_finished(self, net: gpubp.MLP, record: dict[str, Any]) -> None: ...
