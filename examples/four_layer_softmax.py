"""A softmax network in matrix equations, a row a sample, samples summed; weights and data are chosen here.

The equations are those of "An Example of Backpropagation in a Four Layer Neural Network Using Cross Entropy Loss".
"""

import numpy as np

import gpubp

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(3, 3)), np.eye(3)
net = gpubp.MLP(
    [3, 4, 2, 3], loss=gpubp.CrossEntropy(reduction="sum"), dtype="float64", device="cpu", seed=0
)  # hidden sigmoids, and softmax
(W1, W2, W3), (b1, b2, b3) = net.get_parameters()


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


H1 = sigmoid(X @ W1 + b1)
H2 = sigmoid(H1 @ W2 + b2)
Z3 = H2 @ W3 + b3
probabilities = np.exp(Z3) / np.exp(Z3).sum(axis=1, keepdims=True)
D3 = probabilities - Y
D2 = D3 @ W3.T * H2 * (1 - H2)
D1 = D2 @ W2.T * H1 * (1 - H1)
weight_grads, bias_grads = [X.T @ D1, H1.T @ D2, H2.T @ D3], [D1.sum(axis=0), D2.sum(axis=0), D3.sum(axis=0)]

found = net.backprop(X, Y)
for layer, (given, ours) in enumerate(zip(weight_grads, found.weight_grads, strict=True)):
    print(f"dW{layer + 1} {given.shape}: largest difference {np.abs(given - ours).max():.0e}")
print("the equations:", gpubp.check_gradients(net, X, Y, (weight_grads, bias_grads)))

singles = [net.backprop(X[n : n + 1], Y[n : n + 1]) for n in range(3)]
summed = sum(single.weight_grads[0] for single in singles)
print(f"a batch is the sum of its samples: largest difference {np.abs(summed - found.weight_grads[0]).max():.0e}")

# One sample, by Jacobians: a row of gradients times one matrix after another. For the elementwise sigmoid the matrix is
# diagonal, and the product becomes the entry-by-entry one above.
jacobians = net.jacobians(X[:1])
row = -Y[:1] / probabilities[:1]
for layer in (2, 1, 0):
    row = row @ jacobians.activations[layer][0] @ jacobians.linear[layer]
print(f"dC/dX as a product of Jacobians: largest difference {np.abs(row - found.input_grad[:1]).max():.0e}")
