"""Train on digits and explain one that is misread: python examples/misread.py [mnist.npz].

Without a file the small digits that come with gpubp are read; mnist.npz holds x_train, y_train, x_test, y_test.
"""

import sys
from typing import Any

import numpy as np

import gpubp
from gpubp.data import load_dataset

Digits = tuple[Any, Any, Any, Any]
SHADES = " .:-=+*#%@"


def digits(path: str | None) -> Digits:
    """x_train, x_test, y_train, y_test, with pixels from 0 to 1."""
    if path is None:
        small = load_dataset("digits")
        return gpubp.train_test_split(small.x, small.y, test=0.3, seed=0)
    with np.load(path) as data:
        x, x_test = (data[name].reshape(len(data[name]), -1) / np.float32(255) for name in ("x_train", "x_test"))
        return x, x_test, data["y_train"], data["y_test"]


def drawn(image: Any) -> str:
    side = int(len(image) ** 0.5)
    shades = (image.reshape(side, side) * (len(SHADES) - 1)).round().astype(int)
    return "\n".join("".join(SHADES[shade] * 2 for shade in row) for row in shades)


def main(path: str | None = None) -> None:
    x, x_test, y, y_test = digits(path)
    net = gpubp.MLP([x.shape[1], 32, 10], activation="relu", device="cpu", seed=0)
    net.fit(x, y, epochs=5 if path else 40, batch_size=32, verbose=0)
    probabilities = net.predict_proba(x_test)
    taken = probabilities.argmax(axis=1)
    print(f"{np.mean(taken == y_test):.2%} of {len(y_test)} test digits are read rightly.")

    # The one that the network was surest of, and wrong.
    wrong = np.flatnonzero(taken != y_test)
    sample = wrong[probabilities[wrong, taken[wrong]].argmax()]
    truth, told = int(y_test[sample]), int(taken[sample])
    print(f"\nTest digit {sample} is a {truth}, taken for a {told} ({probabilities[sample, told]:.1%}):\n")
    print(drawn(x_test[sample]))

    # Which hidden units spoke for the wrong digit: what each adds to its z, less what it adds to that of the true one.
    step = gpubp.trace(net, x_test[sample : sample + 1], y_test[sample : sample + 1], learning_rate=0.1)
    output = step.layers[-1]
    votes = output.x[0] * (output.weight[:, told] - output.weight[:, truth])
    print(f"\nThe hidden units that spoke most for {told} against {truth}:")
    for j in np.argsort(-votes)[:3]:
        print(f"  {step.names.unit(1, int(j))}: y = {output.x[0, j]:.3f}, {votes[j]:+.3f} in favour of {told}")

    # How the error travels back: from the outputs to the weight between the brightest pixel and the loudest unit.
    pixel, loudest = int(x_test[sample].argmax()), int(votes.argmax())
    print(f"\n{step.weight(f'W[0][{pixel},{loudest}]')}")

    before, after = step.before.outputs[0, truth], step.after.outputs[0, truth]
    print(f"One step on this digit alone takes the probability of {truth} from {before:.1%} to {after:.1%}.")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
