"""Networks from fitted estimators of scikit-learn, and back; scikit-learn is imported only to make one of its own."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.activations import Activation
from gpubp.data.arrays import as_host_or_device, as_rectangle
from gpubp.data.preprocessing import Preprocessing
from gpubp.data.targets import Targets
from gpubp.errors import DataError, GpubpError
from gpubp.from_torch import Loaded
from gpubp.losses import AbsoluteError, Huber, Loss, Poisson, Quantile, SquaredError
from gpubp.structure import Structure

if TYPE_CHECKING:
    from gpubp.mlp import MLP

FITTED = (
    "coefs_",
    "intercepts_",
    "activation",
    "out_activation_",
    "loss",
)  # what tells an estimator from other objects
HIDDEN = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}  # gpubp's names by activation
OUTPUTS = {"softmax": "softmax", "logistic": "sigmoid", "identity": "identity", "exp": "exp"}  # by out_activation_
LOSSES: dict[str, Loss] = {  # of regressions, by loss
    "squared_error": SquaredError(half=True),
    "poisson": Poisson(),
    "absolute_error": AbsoluteError(),
    "huber": Huber(),
    "quantile": Quantile(),
}


# -- from an estimator -------------------------------------------------------------------------------------------------


def from_estimator(estimator: Any) -> Loaded:
    """An MLP's state, weights and biases from the attributes of a fitted MLPClassifier or MLPRegressor."""
    _check_fitted(estimator)
    weights, biases = _parameters(estimator)
    sizes = [weights[0].shape[0], *(weight.shape[1] for weight in weights)]
    structure = Structure.build(
        sizes,
        hidden_activations(estimator.activation, len(sizes) - 2),
        OUTPUTS.get(estimator.out_activation_, estimator.out_activation_),
        _loss(estimator.loss),
        True,
        None,
        np.asarray(getattr(estimator, "dropout", 0.0)).tolist(),
        None,
        "float32" if all(array.dtype == np.float32 for array in weights + biases) else "float64",
    )
    metadata = {"preprocessing": _named(estimator, structure).config()}
    state = {"structure": structure.config(), "seed": 0, "steps": 0, "epochs": 0, "metadata": metadata}
    return state, weights, biases


def hidden_activations(given: Any, count: int) -> list[Activation]:
    """One for each of `count` hidden layers, from one or from a list of them: scikit-learn's names, or gpubp's."""
    entries = list(given) if isinstance(given, list | tuple | np.ndarray) else [given] * count
    if len(entries) != count:
        raise DataError(f"activation has {len(entries)} entries, but there are {count} hidden layers")
    return [Activation.resolve(HIDDEN.get(entry, entry) if isinstance(entry, str) else entry) for entry in entries]


def _check_fitted(estimator: Any) -> None:
    if all(hasattr(estimator, name) for name in FITTED):
        return
    kind = type(estimator).__name__
    if hasattr(estimator, "hidden_layer_sizes"):
        raise DataError(f"estimator must be fitted, but this {kind} is not; call its fit first")
    remedy = "; give the last step: pipe[-1]" if is_pipeline(estimator) else ""
    remedy = "; give its best_estimator_" if hasattr(estimator, "best_estimator_") else remedy
    raise DataError(f"estimator must be a fitted MLPClassifier or MLPRegressor, got {kind}{remedy}")


def is_pipeline(model: Any) -> bool:
    """Whether its `steps` are (name, step), as a Pipeline's are."""
    return isinstance(getattr(model, "steps", None), list) and bool(model.steps)


def _parameters(estimator: Any) -> tuple[list[Any], list[Any]]:
    """coefs_ and intercepts_, which anyone may have assigned, as arrays that fit each other."""
    weights, biases = (_arrays(name, getattr(estimator, name)) for name in ("coefs_", "intercepts_"))
    if not weights or len(weights) != len(biases):
        raise DataError(
            f"coefs_ has {len(weights)} entries and intercepts_ {len(biases)}, but each layer has one of either"
        )
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.ndim != 2 or not weight.size:
            raise DataError(f"coefs_[{layer}] has shape {weight.shape}, but (inputs, outputs) is needed")
        if bias.shape != weight.shape[1:]:
            raise DataError(f"intercepts_[{layer}] has shape {bias.shape}, but {weight.shape[1:]} is needed")
    for layer, (before, weight) in enumerate(pairwise(weights), 1):
        if len(weight) != before.shape[1]:
            raise DataError(
                f"coefs_[{layer}] takes {len(weight)} inputs, but coefs_[{layer - 1}] gives {before.shape[1]} outputs"
            )
    return weights, biases


def _arrays(name: str, given: Any) -> list[Any]:
    if not isinstance(given, list | tuple):
        raise DataError(f"{name} must be a list with one array a layer, got {type(given).__name__}")
    return [as_host_or_device(f"{name}[{layer}]", array) for layer, array in enumerate(given)]


def _loss(given: Any) -> Any:
    """As `MLP` takes it; log loss is what it takes by itself for a classifier's output."""
    if not isinstance(given, str):
        return given
    return None if given == "log_loss" else LOSSES.get(given, given)


def _named(estimator: Any, structure: Structure) -> Preprocessing:
    """The names of columns and classes, as a model file has them; rows and outputs stay as they are."""
    (inputs, *_, outputs), task = structure.sizes, Targets(structure).task
    classes = _classes(estimator, 2 if task == "binary" else outputs) if task in ("classes", "binary") else None
    features = getattr(estimator, "feature_names_in_", None)
    return Preprocessing.as_it_is(
        inputs, outputs, classes, None if features is None else [str(each) for each in features]
    )


def _classes(estimator: Any, count: int) -> list[int] | list[str]:
    """Their names: whole numbers stay numbers, all else is text."""
    classes = as_rectangle("classes_", getattr(estimator, "classes_", range(count)))
    if classes.shape != (count,):
        raise DataError(f"classes_ has shape {classes.shape}, but the network tells {count} classes apart")
    values, kind = classes.tolist(), classes.dtype.kind
    if kind in "iu" or (kind == "f" and all(value.is_integer() for value in values)):
        return [int(value) for value in values]
    return [str(value) for value in values]


# -- to an estimator ---------------------------------------------------------------------------------------------------


def to_estimator(net: "MLP") -> Any:
    """A fitted estimator of scikit-learn's own with this network's parameters."""
    try:
        from sklearn.neural_network import MLPClassifier, MLPRegressor
    except ImportError:
        raise GpubpError("to_sklearn makes an estimator of scikit-learn; pip install 'gpubp[sklearn]'") from None
    task, known = net._network.targets.task, _known(net)
    activation, output = _hidden_name(net), _output_name(net)
    weights, biases = net.get_parameters()
    biases = [
        np.zeros(weight.shape[1], weight.dtype) if bias is None else bias
        for weight, bias in zip(weights, biases, strict=True)
    ]
    if output == "softmax" and net.sizes[-1] == 2:  # scikit-learn has one output for two classes: σ(z₁ − z₀)
        output = "logistic"
        weights[-1], biases[-1] = weights[-1][:, 1:] - weights[-1][:, :1], biases[-1][1:] - biases[-1][:1]
    settings = {"hidden_layer_sizes": tuple(net.sizes[1:-1]), "activation": activation}
    if task == "values":
        estimator = MLPRegressor(loss="poisson" if output == "exp" else "squared_error", **settings)
    else:
        estimator = MLPClassifier(**settings)
        estimator._label_binarizer = _binarizer(net, known)
        estimator.classes_ = estimator._label_binarizer.classes_
    vars(estimator).update(
        coefs_=weights,
        intercepts_=biases,
        out_activation_=output,
        n_features_in_=net.sizes[0],
        n_layers_=len(net.sizes),
        n_outputs_=len(biases[-1]),
        n_iter_=net._network.epochs,
        # As before the first epoch of a fit, so that partial_fit and warm_start can go on.
        t_=0,
        loss_curve_=[],
        best_loss_=np.inf,
        validation_scores_=None,
        best_validation_score_=None,
    )
    if known is not None and known.features is not None and not known.scales:
        estimator.feature_names_in_ = np.array(known.features, object)
    return estimator


def _known(net: "MLP") -> Preprocessing | None:
    told = net.metadata.get("preprocessing")
    return None if told is None else Preprocessing.from_config(told)


def _hidden_name(net: "MLP") -> str:
    names = {activation.name for activation in net.activations[:-1]}
    theirs = {ours: name for name, ours in HIDDEN.items()} | {"fast_sigmoid": "logistic"}
    if unknown := sorted(names - theirs.keys()):
        raise DataError(
            f"scikit-learn has no hidden activation {unknown[0]!r}, but identity, sigmoid, tanh and relu alone; "
            "export the network to ONNX instead"
        )
    chosen = {theirs[name] for name in names}
    if len(chosen) > 1:
        raise DataError(
            f"scikit-learn has one activation for all hidden layers, but this network has {', '.join(sorted(names))}; "
            "export it to ONNX instead"
        )
    return chosen.pop() if chosen else "relu"


def _output_name(net: "MLP") -> str:
    name, outputs = net.activations[-1].name, net.sizes[-1]
    theirs = {ours: output for output, ours in OUTPUTS.items()} | {"fast_sigmoid": "logistic"}
    if name not in theirs:
        raise DataError(
            f"scikit-learn has no output activation {name!r}, but softmax, sigmoid, identity and exp alone; "
            "export the network to ONNX instead"
        )
    if name == "softmax" and outputs == 1:
        raise DataError("scikit-learn has no softmax of a single output, which is always 1")
    return theirs[name]


def _binarizer(net: "MLP", known: Preprocessing | None) -> Any:
    """What scikit-learn's classifier turns labels into targets with, fitted to the names of the classes."""
    from sklearn.preprocessing import LabelBinarizer

    if net._network.targets.task == "labels":
        return LabelBinarizer().fit(np.eye(net.sizes[-1], dtype=np.int64))
    wanted = max(2, net.sizes[-1])
    names = list(range(wanted)) if known is None or known.classes is None else known.classes
    binarizer = LabelBinarizer().fit(np.array(names))
    if len(names) != wanted or binarizer.classes_.tolist() != names:
        raise DataError(
            f"net.metadata names the classes {', '.join(map(str, names[:20]))}, but {wanted} different ones in "
            "ascending order are needed"
        )
    return binarizer
