"""Roi Yehoshua's 2-3-2-1 network ("Backpropagation: Step-By-Step Derivation", 2023), in which connections are absent.

A mask keeps absent weights at 0, and use_bias says which layers have biases. Two dense readings learn something else.
"""

import numpy as np

import gpubp

WEIGHTS = [
    np.array([[0.5, -0.2, 0.0], [0.0, 0.0, 0.0]]),
    np.array([[-0.5, 0.3], [0.4, 0.6], [0.0, 0.4]]),
    np.array([[0.5], [0.7]]),
]
FIRST_BIAS = [0.3, 0.7, -0.1]
READINGS = {
    "as drawn": {"masks": [weight != 0 for weight in WEIGHTS], "use_bias": [True, False, False]},
    "dense, absent weights start at 0": {"use_bias": [True, False, False]},
    "dense, and biases everywhere": {"use_bias": True},
}
x, y = [[1.0, 0.0]], [[1.0]]

for reading, options in READINGS.items():
    loss = gpubp.BinaryCrossEntropy(reduction="sum")
    net = gpubp.MLP([2, 3, 2, 1], output="sigmoid", loss=loss, dtype="float64", device="cpu", seed=0, **options)
    others = [np.zeros(2), np.zeros(1)] if options["use_bias"] is True else [None, None]
    net.set_parameters(WEIGHTS, [FIRST_BIAS, *others])
    step = gpubp.trace(net, x, y, learning_rate=0.5)
    before, after = step.before.outputs[0, 0], step.after.outputs[0, 0]
    print(f"{reading:33} output {before:.7f} -> {after:.7f}   log loss {step.before.loss:.6f} -> {step.after.loss:.6f}")
    assert gpubp.check_gradients(net, x, y).ok

print("\nThe author's notebook of 2023-04-08 has 0.70429, its repair of 2023-11-22 has 0.69811.")
print("`gpubp explain sparse` shows the two slips between them.")
