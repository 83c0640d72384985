"""Several seeds, several minima: the same training from different starts ends in different places.

Prints where each seed ended, and draws minima.png and minima-xor.png. The first network is a single neuron,
sin(w x + b), so that a picture over w and b shows the whole of its cost. The second has two hidden units and learns
XOR, or does not. What is called a minimum has a gradient of 0, and none of 100 small random steps leads down from it.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpubp
from gpubp.explain import DescentPath, Landscape, landscape

Array = NDArray[np.float64]
SMALL_STEPS = 100


@gpubp.elementwise("z, b -> z, y")
def bias_sine(xp: Any, z: Any, b: Any, y: Any) -> None:
    xp.sin(xp.add(z, b, out=z), out=y)


@gpubp.elementwise("dy, z -> dz")
def sine_delta(xp: Any, dy: Any, z: Any, dz: Any) -> None:
    xp.multiply(dy, xp.cos(z), out=dz)


class Sine(gpubp.Activation):
    forward, delta, saves, analytic = bias_sine, sine_delta, "z", True


def descend(net: gpubp.MLP, x: Array, y: Array, epochs: int) -> DescentPath:
    """Gradient descent on all samples at once, and the path it takes."""
    path = DescentPath()
    net.fit(x, y, epochs=epochs, batch_size="full", optimizer="sgd", learning_rate=0.1, callbacks=[path], verbose=0)
    return path


def what_is_here(net: gpubp.MLP, x: Array, y: Array) -> str:
    """The cost, the length of its gradient, and what kind of a place this is."""
    here = net.backprop(x, y)
    gradients = [*here.weight_grads, *here.bias_grads]
    slope = float(np.sqrt(sum((gradient**2).sum() for gradient in gradients)))
    # A gradient of 0 is not enough: it is 0 on a saddle too, and may be on a kink of ReLU, where it is one-sided.
    near, (weights, biases), rng, lower = net.copy(), net.get_parameters(), np.random.default_rng(0), 0
    for _ in range(SMALL_STEPS):
        moved = ([a + rng.normal(0, 1e-3, a.shape) for a in arrays] for arrays in (weights, biases))
        near.set_parameters(*moved)
        lower += near.evaluate(x, y)["loss"] < here.loss - 1e-15
    kind = (
        "still descending"
        if slope > 1e-5
        else f"no minimum: {lower} of {SMALL_STEPS} small steps lead down"
        if lower
        else "a global minimum"
        if here.loss < 1e-9
        else "a local minimum"
    )
    return f"{here.loss:9.6f}  {slope:10.0e}  {kind}"


def report(title: str, ends: Iterable[gpubp.MLP], x: Array, y: Array) -> None:
    print(f"{title}\nseed       cost  |gradient|  where it ended")
    for seed, net in enumerate(ends):
        print(f"{seed:4}  {what_is_here(net, x, y)}")
    print()


def draw(picture: Landscape, file: str) -> None:
    try:
        picture.plot(file)
    except gpubp.GpubpError as error:  # no matplotlib, or no place to write
        print(f"{file} is not drawn: {error}\n")


def neuron() -> None:
    """C(w, b) = mean (sin(w x + b) − sin(3 x + ½))²: other frequencies fit some of the samples, and so are minima."""
    x = np.linspace(-1.5, 1.5, 7)[:, None]
    y = np.sin(3 * x + 0.5)
    nets, paths = [], {}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        net = gpubp.MLP([1, 1], output="sine", loss="squared_error", dtype="float64", device="cpu")
        net.set_parameters([rng.uniform(-6, 6, (1, 1))], [rng.uniform(-3, 3, 1)])
        paths[f"seed {seed}"] = descend(net, x, y, epochs=300)
        nets.append(net)
    report("a neuron, sin(w x + b)", nets, x, y)
    picture = landscape(net, x, y, "w1", "b1", span=((-7, 7), (-4, 4)), points=61, path=paths)
    draw(picture, "minima.png")


def xor() -> None:
    """A hidden unit that is 0 on a sample learns nothing from it, so that the cost may end at 1/8, 1/6 or 1/4."""
    x, y = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0.0, 1.0, 1.0, 0.0])
    nets = []
    for seed in range(10):
        init = gpubp.Uniform(1.0)
        net = gpubp.MLP([2, 2, 1], "relu", "identity", init=init, dtype="float64", device="cpu", seed=seed)
        descend(net, x, y, epochs=1000)
        nets.append(net)
    report("XOR, two hidden units (ReLU)", nets, x, y)
    draw(landscape(nets[7], x, y, nets[1], nets[3]), "minima-xor.png")


if __name__ == "__main__":
    neuron()
    xor()
