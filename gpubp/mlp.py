"""MLP, a multi-layer perceptron: forward, backprop, train_step, fit and predict are what most people ever call."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from threading import RLock
from typing import Any, Self

import numpy as np

from gpubp import checkpoint, checks, metrics
from gpubp.activations import Activation
from gpubp.alone import ALONE, Alone, processes
from gpubp.backends import get_backend, precise_backend
from gpubp.data.arrays import as_layers, as_matrix, as_rows, as_usable, as_weights, check_finite, returner
from gpubp.errors import DataError, DeviceError
from gpubp.from_sklearn import from_estimator, to_estimator
from gpubp.history import History
from gpubp.jacobians import Jacobians, jacobians
from gpubp.kernel import Array
from gpubp.losses import Loss
from gpubp.network import Backprop, Network
from gpubp.optimizers import Optimizer, as_object
from gpubp.structure import Structure
from gpubp.training import Trainer


class MLP:
    """A multi-layer perceptron: y = f_L(… f_1(x W₁ + b₁) … W_L + b_L), trained by backpropagation.

    Arguments:
        sizes: the widths, inputs first, outputs last: [784, 256, 10].
        activation: of the hidden layers: a name, an Activation, or a list with one entry a hidden layer.
        output: the activation of the output layer.
        loss: a name or a Loss; None picks cross_entropy for softmax, binary_cross_entropy for sigmoid, else
            squared_error.
        use_bias: True, False, or a list with one entry a layer.
        masks: for each layer None or an (inputs, outputs) array of 0 and 1; a weight under a 0 is 0 and stays so.
        dropout: the probability of dropping each hidden unit while training, or a list with one rate for each layer's
            input.
        init: an initializer or its name; None picks one by activation.
        dtype: "float32" or "float64".
        precision: on CUDA with float32, "tf32": products of factors rounded to 10 bits after the point; "bfloat16":
            hidden activations and deltas in 16 bits, 7 of them after the point, beside float32 parameters.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        seed: of weights, shuffles and dropout; None draws one, kept in `net.seed`.

    Raises DataError for a setting that cannot be used, DeviceError for a device that is not there.

    >>> net = MLP([2, 3, 1], output="sigmoid", seed=0)
    >>> net.forward([[0.0, 1.0]]).shape
    (1, 1)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Any = "sigmoid",
        output: Any = "softmax",
        loss: Any = None,
        *,
        use_bias: Any = True,
        masks: Any = None,
        dropout: Any = 0.0,
        init: Any = None,
        dtype: str = "float32",
        precision: str | None = None,
        device: str = "auto",
        seed: int | None = None,
    ) -> None:
        structure = Structure.build(sizes, activation, output, loss, use_bias, masks, dropout, init, dtype)
        structure.check_precision(precision)
        backend = get_backend(device) if precision is None else precise_backend(device, precision)
        with backend.active():
            self._adopt(Network(structure, backend, _seed(seed)))
            self._network.draw()

    def _adopt(self, network: Network) -> None:
        self._network = network
        self._lock = RLock()  # buffers are shared between calls, so calls from several threads take turns
        self.metadata: dict[str, Any] = {}  # JSON-able facts that travel in the model file

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> list[int]:
        return list(self._network.structure.sizes)

    @property
    def activations(self) -> list[Activation]:
        """Of every layer, the output's last."""
        return list(self._network.structure.activations)

    @property
    def loss(self) -> Loss:
        return self._network.loss

    @property
    def dtype(self) -> str:
        return self._network.dtype

    @property
    def precision(self) -> str | None:
        """Of the products, where it is not that of the dtype."""
        return self._network.backend.precision

    @property
    def device(self) -> str:
        return self._network.backend.name

    @property
    def fallback(self) -> str | None:
        """Why device="auto" gave the CPU; None where it did not."""
        return self._network.backend.fallback

    @property
    def seed(self) -> int:
        return self._network.seed

    @property
    def weights(self) -> tuple[Array, ...]:
        """Live views on the device, (inputs, outputs) each; stale after `to`."""
        return tuple(self._network.arena.weights)

    @property
    def biases(self) -> tuple[Array | None, ...]:
        """Live views on the device, (outputs,) each; None for a layer without."""
        return tuple(self._network.arena.biases)

    @property
    def parameter_count(self) -> int:
        return sum(view.size for view in [*self.weights, *self.biases] if view is not None)

    def __repr__(self) -> str:
        names = " → ".join(activation.name for activation in self.activations)
        sizes = "-".join(map(str, self.sizes))
        return (
            f"MLP({sizes}, {names}, {self.loss.name}, {self.dtype}, {self.device}, {self.parameter_count:,} parameters)"
        )

    def get_parameters(self) -> tuple[list[Any], list[Any]]:
        """(weights, biases) as NumPy copies; a missing bias is None."""
        with self._session() as network:
            copy = network.backend.host_copy
            return [copy(view) for view in self.weights], [copy(view) for view in self.biases]

    def set_parameters(self, weights: Sequence[Any], biases: Sequence[Any] | None = None) -> None:
        """Overwrite the parameters; masked weights become 0.

        biases=None leaves the biases as they are, and so does a None among them.
        """
        with self._session():
            pairs = self._checked("weights", weights, self.weights)
            pairs += [] if biases is None else self._checked("biases", biases, self.biases)
            for view, value in pairs:
                view[...] = value
            for params in self._network.parameters:
                if params.mask is not None:
                    params.weight[...] *= params.mask

    def _checked(self, name: str, given: Sequence[Any], views: Sequence[Array | None]) -> list[tuple[Array, Array]]:
        """Pairs of a view and the array to write there; nothing is written before all have been checked."""
        backend, pairs = self._network.backend, []
        arrays = as_layers(name, given, views, may_be_left_out=name == "biases")
        for layer, (array, view) in enumerate(zip(arrays, views, strict=True)):
            if array is not None:
                array = as_usable(f"{name}[{layer}]", array, backend)
                if not backend.owns(array) or array.dtype != self.dtype:
                    array = backend.asarray(array, self.dtype)  # which would copy the transposed views of a model file
                check_finite(f"{name}[{layer}]", array, backend.xp)
                pairs.append((view, array))
        return pairs

    # -- using it ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _session(self) -> Iterator[Network]:
        with self._lock, self._network.backend.active():
            yield self._network

    def forward(self, x: Any) -> Any:
        """The outputs (N, outputs) for inputs x (N, inputs), dropout off; a new array of the kind that x is."""
        with self._session() as network:
            return returner(x, network.backend)(network.outputs(self._inputs(x)))

    def predict(self, x: Any, batch_size: int | None = None, reject_below: float | None = None) -> Any:
        """Decisions for x (N, inputs).

        These are class indices (N,) for softmax; 0 or 1, (N,) for one sigmoid and (N, K) for several; else values, (N,)
        for one output. `reject_below` gives −1 where the winner's probability is smaller.
        """
        with self._session() as network:
            size = None if batch_size is None else checks.count("batch_size", batch_size, " or None")
            outputs = network.backend.to_numpy(network.outputs(self._finite(x), size))
            return self._given_back(x, network.targets.decide(outputs, reject_below))

    def predict_proba(self, x: Any) -> Any:
        """Class probabilities (N, K); one sigmoid gives (N, 2). DataError for a regression."""
        with self._session() as network:
            return self._given_back(
                x, network.targets.probabilities(network.backend.to_numpy(network.outputs(self._finite(x))))
            )

    def evaluate(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
        """{"loss", "accuracy"} of a classifier, {"loss", "rmse", "mae", "r2"} of a regression; updates nothing."""
        with self._session() as network:
            names = metrics.REGRESSION if network.targets.task == "values" else ("accuracy",)
            sample = self._sample(x, y, sample_weight, finite="x")
            return network.score(*sample, metrics.resolve(names, network.targets.task))

    # -- learning ------------------------------------------------------------------------------------------------------

    def backprop(self, x: Any, y: Any, sample_weight: Any = None) -> Backprop:
        """One forward and backward pass that keeps everything; no update, dropout off.

        δ_L = ∂C/∂z_L, δ_l = (δ_{l+1} W_{l+1}ᵀ) · f'(z_l), ∂C/∂W_l = a_{l−1}ᵀ δ_l, ∂C/∂b_l = Σ δ_l over the batch.
        """
        with self._session() as network:
            return network.trace(*self._sample(x, y, sample_weight))

    def jacobians(self, x: Any) -> Jacobians:
        """The Jacobians of every layer at x (N, inputs): ∂z/∂x = Wᵀ and ∂y/∂z, whose product is ∂outputs/∂x.

        Raises DataError where they would not fit into memory.

        >>> net = MLP([2, 3, 1], output="identity", seed=0)
        >>> net.jacobians([[0.5, -1.0]]).product.shape
        (1, 1, 2)
        """
        with self._session() as network:
            return jacobians(network, self._inputs(x))

    def train_step(self, x: Any, y: Any, optimizer: Optimizer, sample_weight: Any = None) -> Array:
        """One update on one batch.

        Its loss before the update comes back as a 0-d device array, and nothing waits for the device: the values of y
        and weights that lie on a GPU are not checked.
        """
        network = self._network
        with self._lock, network.backend.active():  # not _session, whose generator costs a microsecond
            inputs, targets, weights = self._sample(x, y, sample_weight, may_wait=False)
            cost = network.backend.empty((), self.dtype)
            network.update(inputs, targets, weights, as_object(optimizer), cost)
            return cost

    def apply_gradients(self, weight_grads: Sequence[Any], bias_grads: Sequence[Any], optimizer: Optimizer) -> None:
        """One update with gradients from elsewhere: accumulated, clipped, or computed by hand.

        Masked weights do not move.
        """
        with self._session() as network:
            pairs = self._checked("weight_grads", weight_grads, network.arena.weight_grads)
            pairs += self._checked("bias_grads", bias_grads, network.arena.bias_grads)
            for view, value in pairs:
                view[...] = value
            for params in network.parameters:
                if params.mask is not None:
                    params.weight_grad[...] *= params.mask
            as_object(optimizer).update(network.backend, network.arena)

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int = 10,
        batch_size: int | str = 128,
        optimizer: Any = "adam",
        learning_rate: float | None = None,
        schedule: Any = None,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        validation: Any = None,
        early_stopping: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        metrics: Any = (),
        shuffle: bool = True,
        transform: Callable[..., Any] | None = None,
        callbacks: Sequence[Any] = (),
        verbose: int = 1,
    ) -> History:
        """Train for some epochs from the present parameters, and return the history.

        Arguments:
            x, y: arrays, or x alone an iterable of (x, y) or (x, y, weights) batches that can be iterated once an
                epoch.
            batch_size: rows a step; 1 is stochastic, "full" is batch gradient descent. The last batch may be smaller.
            optimizer: a name (starts fresh) or an object (keeps its state). learning_rate and weight_decay go with a
                name only.
            schedule: a name, a Schedule, or a function step -> factor on the learning rate.
            clip_norm: the largest Euclidean norm of all gradients together.
            validation: a fraction of the rows (drawn by seed, stratified for classes), (x, y), or (x, y, weights).
            early_stopping: epochs to wait for a better loss before stopping and restoring the best weights, or an
                EarlyStopping.
            class_weight: {class: weight} or "balanced"; multiplies the sample weights.
            metrics: names ("accuracy", "rmse", "mae", "r2") or functions (targets, outputs) -> float, computed after
                each epoch with dropout off, on the training data (arrays only) and on the validation data.
            transform: f(x), f(x, y) or f(x, y, generator) of each batch, returning x or (x, y); the generator is seeded
                by epoch and step.
            callbacks: Callback objects, or functions (net, record) called after each epoch; returning True stops.
            verbose: 0 is silent, 1 shows progress on stderr.

        All processes that an MPI launcher started (mpiexec, srun) share each batch, and each of them ends with the
        network that one process would have, to rounding; `gpubp.distributed.using` chooses others (docs/scaling.md).

        Ctrl-C ends training after the present step: the history comes back with `stopped == "interrupted"`, and the
        network keeps that step. A second Ctrl-C raises KeyboardInterrupt at once.

        Raises DivergenceError, with the network at its last finite epoch, when a loss is not finite.
        """
        trainer = Trainer(
            self,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate,
            schedule=schedule,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            early_stopping=early_stopping,
            class_weight=class_weight,
            metrics=metrics,
            shuffle=shuffle,
            transform=transform,
            callbacks=callbacks,
            verbose=verbose,
            processes=processes(),
        )
        return trainer.fit(x, y, sample_weight, validation)

    # -- scikit-learn --------------------------------------------------------------------------------------------------

    @classmethod
    def from_sklearn(cls, estimator: Any, device: str = "auto") -> Self:
        """The network of a fitted MLPClassifier or MLPRegressor, scikit-learn's or gpubp.sklearn's.

        It says what the estimator says of the same rows, in class indices 0..K−1; `metadata["preprocessing"]` has the
        names of classes and columns. Raises DataError for anything else, and for attributes that do not fit together.

        >>> from sklearn.neural_network import MLPClassifier
        >>> estimator = MLPClassifier((4,), solver="lbfgs", random_state=0).fit([[0.0], [1.0]], ["no", "yes"])
        >>> net = MLP.from_sklearn(estimator, device="cpu")
        >>> net.predict([[0.0], [1.0]]).tolist(), net.to_sklearn().predict([[0.0], [1.0]]).tolist()
        ([0, 1], ['no', 'yes'])
        """
        return cls._restore(*from_estimator(estimator), device)

    def to_sklearn(self) -> Any:
        """This network as scikit-learn's own fitted MLPClassifier or MLPRegressor, which needs no gpubp.

        It takes the network's inputs, scaled where the network's are, knows classes by the names in `metadata`, and
        learns on by scikit-learn's loss, without masks and dropout. Raises DataError for activations that scikit-learn
        lacks or cannot mix, GpubpError where it is not installed.
        """
        return to_estimator(self)

    # -- keeping it ----------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a safetensors file, whole or not at all."""
        checkpoint.save_model(path, *self.get_parameters(), self._state())

    def copy(self) -> Self:
        """An independent network with the same parameters, on the same device."""
        return type(self)._restore(self._state(), *self.get_parameters(), self.device)

    def to(self, device: str) -> Self:
        """Move to another device, in place; views taken before are stale."""
        with self._lock:
            moved = self._restore(self._state(), *self.get_parameters(), device)
            moved._network.arena.owner = self._network.arena.owner  # so that an optimizer's state may follow
            self._network = moved._network
            return self

    def __reduce__(self) -> Any:  # pickle and copy.deepcopy
        return type(self)._reopened, (self._state(), *self.get_parameters(), self.device)

    @classmethod
    def _reopened(cls, state: dict[str, Any], weights: list[Any], biases: list[Any], device: str) -> Self:
        try:
            return cls._restore(state, weights, biases, device)
        except DeviceError:  # pickled on a GPU, opened on a machine without
            return cls._restore(state, weights, biases, "auto")

    def _state(self) -> dict[str, Any]:
        network = self._network
        counters = {"seed": network.seed, "steps": network.steps, "epochs": network.epochs}
        kept = {"metadata": self.metadata, "precision": self.precision}
        return {"structure": network.structure.config(), **counters, **kept}

    @classmethod
    def _restore(cls, state: dict[str, Any], weights: list[Any], biases: list[Any], device: str) -> Self:
        net = cls.__new__(cls)
        structure, precision = Structure.from_config(state["structure"]), state.get("precision")
        backend = get_backend(device)
        if precision is not None and backend.name != "cpu":
            backend = precise_backend(device, precision)
        with backend.active():
            net._adopt(Network(structure, backend, checks.seed(state["seed"])))
        net._network.steps, net._network.epochs = int(state["steps"]), int(state["epochs"])
        net.metadata = dict(state["metadata"])
        net.set_parameters(weights, biases)
        return net

    # -- what comes in and goes out ------------------------------------------------------------------------------------

    def _inputs(self, x: Any) -> Array:
        network = self._network
        return as_matrix("x", x, network.backend, network.dtype, network.structure.sizes[0])

    def _finite(self, x: Any, name: str = "x", processes: Alone = ALONE) -> Array:
        """x as checked device rows; what is too large for memory stays where it is."""
        network = self._network
        inputs = as_rows(name, x, network.backend, network.dtype, network.structure.sizes[0])
        check_finite(name, inputs, self._network.backend.xp, processes)
        return inputs

    def _sample(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        finite: str = "",
        may_wait: bool = True,
        processes: Alone = ALONE,
    ) -> tuple[Array, Array, Array | None]:
        """x, y and weights as checked device arrays; `finite` is what to call an x that is to be looked through."""
        network, inputs = self._network, self._finite(x, finite, processes) if finite else self._inputs(x)
        rows = len(inputs)
        if not rows:
            raise DataError("x is empty; at least one sample is needed")
        weights = as_weights(sample_weight, rows, network.backend, network.dtype, may_wait)
        return inputs, network.targets.encode(y, rows, network.backend, may_wait), weights

    def _given_back(self, x: Any, result: Any) -> Any:
        """A result made on the host, as the kind that x is."""
        backend = self._network.backend
        give = returner(x, backend)
        return result if give == backend.to_numpy else give(backend.asarray(result, result.dtype))


def _seed(seed: int | None) -> int:
    return int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else checks.seed(seed, ", or None")
