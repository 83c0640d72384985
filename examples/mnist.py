"""Train on MNIST and print what came of it: python examples/mnist.py mnist.npz (x_train, y_train, x_test, y_test)."""

import sys
import time
from typing import Any

import numpy as np

import gpubp


def pixels(images: Any) -> Any:
    return images.reshape(len(images), -1).astype(np.float32) / 255


def main(path: str) -> None:
    with np.load(path) as data:
        x, x_test = pixels(data["x_train"]), pixels(data["x_test"])
        y, y_test = data["y_train"], data["y_test"]

    recipes: dict[str, tuple[gpubp.MLP, dict[str, Any]]] = {
        "784-512-256-10, ReLU, dropout": (
            gpubp.MLP([784, 512, 256, 10], "relu", dropout=0.2, seed=0),
            {"epochs": 10, "batch_size": 128},
        ),
        "784-36-14-10, leaky ReLU, Nesterov, L2": (
            gpubp.MLP([784, 36, 14, 10], "leaky_relu", seed=0),
            {"epochs": 20, "batch_size": 32, "optimizer": gpubp.SGD(0.05, 0.9, nesterov=True, weight_decay=5e-4)},
        ),
    }
    for name, (net, settings) in recipes.items():
        began = time.perf_counter()
        net.fit(x, y, schedule="cosine", **settings)
        seconds = time.perf_counter() - began
        print(f"{name}: accuracy {net.evaluate(x_test, y_test)['accuracy']:.2%} after {seconds:.1f} s")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
