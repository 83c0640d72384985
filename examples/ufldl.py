"""Backpropagation in UFLDL's notation (as in "A step by step guide to understand backpropagation"), beside gpubp.

The article has column vectors, W of shape (units above, units below) and J = 1/2 |y - h|^2; gpubp has rows and W
transposed. Weights and data are chosen here.
"""

from math import prod

import numpy as np

import gpubp


def network(weights: list[np.ndarray], biases: list[np.ndarray]) -> gpubp.MLP:
    """Sigmoids, from the article's matrices."""
    sizes = [weights[0].shape[1], *(len(weight) for weight in weights)]
    loss = gpubp.SquaredError(half=True, reduction="sum")
    net = gpubp.MLP(sizes, output="sigmoid", loss=loss, dtype="float64", device="cpu", seed=0)
    net.set_parameters([weight.T for weight in weights], [bias.ravel() for bias in biases])
    return net


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


# 3-2-2, in columns.
W1, W2 = np.array([[0.1, 0.4, -0.3], [0.6, -0.2, 0.5]]), np.array([[0.7, -0.5], [0.2, 0.9]])
b1, b2 = np.array([[0.05], [-0.15]]), np.array([[0.2], [-0.1]])
x, y = np.array([[1.0], [-0.5], [2.0]]), np.array([[0.2], [0.8]])
a2 = sigmoid(W1 @ x + b1)
a3 = sigmoid(W2 @ a2 + b2)
delta3 = -(y - a3) * a3 * (1 - a3)
delta2 = W2.T @ delta3 * a2 * (1 - a2)
found = network([W1, W2], [b1, b2]).backprop(x.T, y.T)
print("dJ/dW1 of the article, transposed:", *(delta2 @ x.T).T.round(6).tolist(), sep="\n  ")
print("weight_grads[0] of gpubp:", *found.weight_grads[0].round(6).tolist(), sep="\n  ")
assert np.allclose((delta2 @ x.T).T, found.weight_grads[0], rtol=1e-12)
assert np.allclose((delta3 @ a2.T).T, found.weight_grads[1], rtol=1e-12)

# 1-1-1-1: dJ/dW1 is one product, from the output down to the first weight.
w1, w2, w3 = 0.8, -1.2, 0.5
net = network([np.array([[w]]) for w in (w1, w2, w3)], [np.array([[b]]) for b in (0.1, -0.2, 0.3)])
step = gpubp.trace(net, [[0.7]], [[0.9]], learning_rate=0.5)
second, third, last = step.layers
factors = [
    *(last.y - 0.9, last.y * (1 - last.y)),
    *(w3, third.y * (1 - third.y)),
    *(w2, second.y * (1 - second.y)),
    0.7,
]
product = prod(float(np.squeeze(factor)) for factor in factors)
print(f"the chain's product: {product:.15f}, gpubp's gradient: {second.weight_grad[0, 0]:.15f}")
print(step.weight("w1"))  # the same, factor by factor
