"""Metrics that go by what the network tells."""

import numpy as np

import gpubp


def test_accuracy_goes_by_the_task_not_by_the_values() -> None:
    outputs = np.array([0.4, 0.3, 0.3])  # the first is the likeliest, and yet below one half
    logits = {"softmax": np.log(outputs), "sigmoid": np.log(outputs / (1 - outputs))}
    # Rows of probabilities may be off by a thousandth; sigmoids that sum to 1 are no classes for that.
    for output, target, accuracy in (("softmax", [0.6996, 0.3, 0.0], 1), ("sigmoid", [1.0, 0.0, 0.0], 0)):
        net = gpubp.MLP([1, 3], output=output, dtype="float64", device="cpu", seed=0)
        net.set_parameters([np.zeros((1, 3))], [logits[output]])
        np.testing.assert_allclose(net.forward([[0.0]]), [outputs])
        assert net.evaluate([[0.0]], [target])["accuracy"] == accuracy
