"""Backpropagation in plain NumPy: a network of any depth that learns to classify by mini-batch gradient descent.

A row of x is one sample, the same row of y its class, one-hot. From the activations a of the layer below, a layer
computes z = a @ weight + bias; its own activations are sigmoid(z), in the last layer softmax(z). The loss C is the
cross entropy, averaged over the samples.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arrays = list[Array]


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def softmax(z: Array) -> Array:
    # Shifting a row changes none of its probabilities; without the shift exp would overflow on large z.
    exp = np.exp(z - z.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def cross_entropy(probabilities: Array, y: Array) -> float:
    return float(-np.sum(y * np.log(probabilities)) / len(y))


def forward(x: Array, weights: Arrays, biases: Arrays) -> Arrays:
    """The activations of all layers, from x itself up to the probabilities of the classes."""
    activations = [x]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        activations.append(sigmoid(activations[-1] @ weight + bias))
    activations.append(softmax(activations[-1] @ weights[-1] + biases[-1]))
    return activations


def backward(activations: Arrays, y: Array, weights: Arrays) -> tuple[Arrays, Arrays]:
    """The gradients ∂C/∂weight and ∂C/∂bias of every layer, by way of its delta = ∂C/∂z."""
    # Differentiating the cross entropy and the softmax together leaves just this difference.
    deltas = [(activations[-1] - y) / len(y)]
    # The chain rule, downwards: z above depends on a through weight, and a on its own z with the slope a (1 − a).
    for a, weight in zip(reversed(activations[1:-1]), reversed(weights[1:]), strict=True):
        deltas.insert(0, deltas[0] @ weight.T * a * (1 - a))
    # A weight acts on z in proportion to the activation below it, a bias as if that were 1; samples add up.
    weight_grads = [a.T @ delta for a, delta in zip(activations[:-1], deltas, strict=True)]
    bias_grads = [delta.sum(axis=0) for delta in deltas]
    return weight_grads, bias_grads


def train(
    x: Array, y: Array, weights: Arrays, biases: Arrays, learning_rate: float, epochs: int, batch_size: int, seed: int
) -> list[float]:
    """Gradient descent on shuffled mini-batches; changes weights and biases in place, returns every epoch's loss."""
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), batch_size):
            batch = order[start : start + batch_size]
            weight_grads, bias_grads = backward(forward(x[batch], weights, biases), y[batch], weights)
            for parameter, gradient in zip(weights + biases, weight_grads + bias_grads, strict=True):
                parameter -= learning_rate * gradient
        losses.append(cross_entropy(forward(x, weights, biases)[-1], y))
    return losses


def main() -> None:
    """Two interleaved half moons, which no straight line can separate."""
    rng = np.random.default_rng(0)
    angle, label = rng.uniform(0, np.pi, 400), rng.integers(0, 2, 400)
    upper = np.column_stack([np.cos(angle), np.sin(angle)])
    x = np.where(label[:, None] == 0, upper, [1.0, 0.5] - upper) + rng.normal(0, 0.1, (400, 2))
    y = np.eye(2)[label]

    sizes = [2, 16, 8, 2]
    # Weights that start equal would stay equal: it is chance that lets the units of a layer become different.
    weights = [rng.normal(0, 1 / np.sqrt(n), (n, m)) for n, m in pairwise(sizes)]
    biases = [np.zeros(m) for m in sizes[1:]]
    losses = train(x, y, weights, biases, learning_rate=2.0, epochs=200, batch_size=32, seed=0)
    for epoch in range(19, 200, 20):
        print(f"epoch {epoch + 1:3}  loss {losses[epoch]:.4f}")
    correct = forward(x, weights, biases)[-1].argmax(axis=1) == label
    print(f"accuracy {correct.mean():.3f}")


if __name__ == "__main__":
    main()
