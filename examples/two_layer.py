"""Tobias Hill's 2-2-2 network ("Part 2 - Gradient descent and backpropagation", 2018): his step, and the true one.

The article takes the sigmoid's slope at the output of a unit where it belongs to z, what goes into the unit.
"""

import numpy as np

import gpubp

net = gpubp.MLP(
    [2, 2, 2], output="sigmoid", loss=gpubp.SquaredError(reduction="sum"), dtype="float64", device="cpu", seed=0
)
net.set_parameters(
    weights=[[[0.3, 0.2], [-0.4, 0.6]], [[0.7, -0.3], [0.5, -0.1]]],  # w1 w2 / w3 w4, then w5 w6 / w7 w8
    biases=[[0.25, 0.45], [0.15, 0.35]],  # b1 b2, then b3 b4
)
x, y = [[2.0, 3.0]], [[1.0, 0.2]]

step = gpubp.trace(net, x, y, learning_rate=0.1)
print(step.weight("w1"))  # the chain rule, factor by factor and path by path
print(gpubp.check_gradients(net, x, y))

# The parameters that the article prints after its step, and the gradients that led there: (before - after) / 0.1.
weights, biases = net.get_parameters()
printed_weights = [
    np.array([[0.3064945998937866, 0.20320220163143507], [-0.39025810015932016, 0.6048033024471525]]),
    np.array([[0.70525257108356, -0.3064179482696209], [0.5118678465030685, -0.11450094129460808]]),
]
printed_biases = [
    np.array([0.25324729994689327, 0.4516011008157175]),
    np.array([0.1627063242549253, 0.33447454961240974]),
]
weight_grads = [(before - after) / 0.1 for before, after in zip(weights, printed_weights, strict=True)]
bias_grads = [(before - after) / 0.1 for before, after in zip(biases, printed_biases, strict=True)]
print()
print(f"dC/dw1: {weight_grads[0][0, 0]:.6f} printed, {step.layers[0].weight_grad[0, 0]:.6f} true")
print("printed:", gpubp.check_gradients(net, x, y, (weight_grads, bias_grads)))


def slope(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z)) * (1 - 1 / (1 + np.exp(-z)))


# The slip: the same two layers of deltas with the slope at y = sigmoid(z), the sigmoid applied twice.
hidden, out = step.layers
delta_out = 2 * (out.y - y) * slope(out.y)
delta_hidden = delta_out @ out.weight.T * slope(hidden.y)
difference = np.abs(hidden.x.T @ delta_hidden - weight_grads[0]).max()
print(f"with the slope taken at the output, the printed gradients of w1 to w4 come out to {difference:.0e}")
