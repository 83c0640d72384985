"""The public names of gpubp; the package itself looks them up here when they are first used."""

import gpubp.activations as activations
import gpubp.initializers as initializers
import gpubp.losses as losses
import gpubp.optimizers as optimizers
import gpubp.schedules as schedules
from gpubp.activations import (
    ELU,
    GELU,
    SELU,
    Activation,
    Exp,
    FastSigmoid,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from gpubp.backends import devices, get_backend
from gpubp.callbacks import Callback, EarlyStopping
from gpubp.data.split import train_test_split
from gpubp.errors import (
    DataError,
    DeviceError,
    DivergenceError,
    GpubpError,
    ModelFileError,
    ShapeError,
)
from gpubp.explain.diagnosis import Diagnosis
from gpubp.explain.gradients import check_gradients
from gpubp.explain.trace import Trace, trace
from gpubp.history import History
from gpubp.initializers import (
    HeNormal,
    HeUniform,
    Initializer,
    LecunNormal,
    LecunUniform,
    Normal,
    Uniform,
    XavierNormal,
    XavierUniform,
    Zeros,
)
from gpubp.kernel import elementwise, reduction, rowwise
from gpubp.loading import load
from gpubp.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Loss,
    Poisson,
    Quantile,
    SquaredError,
)
from gpubp.mlp import MLP
from gpubp.network import Backprop
from gpubp.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from gpubp.resume import Checkpoint
from gpubp.schedules import Constant, Cosine, Exponential, Inverse, Linear, OneCycle, Schedule, Step

__all__ = [
    "ELU",
    "GELU",
    "MLP",
    "SELU",
    "SGD",
    "AbsoluteError",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "Backprop",
    "BinaryCrossEntropy",
    "Callback",
    "Checkpoint",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "DataError",
    "DeviceError",
    "Diagnosis",
    "DivergenceError",
    "EarlyStopping",
    "Exp",
    "Exponential",
    "FastSigmoid",
    "GpubpError",
    "HeNormal",
    "HeUniform",
    "History",
    "Huber",
    "Identity",
    "Initializer",
    "Inverse",
    "LeakyReLU",
    "LecunNormal",
    "LecunUniform",
    "Linear",
    "Loss",
    "ModelFileError",
    "Normal",
    "OneCycle",
    "Optimizer",
    "Poisson",
    "Quantile",
    "RMSprop",
    "ReLU",
    "Schedule",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SquaredError",
    "Step",
    "Tanh",
    "Trace",
    "Uniform",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "activations",
    "check_gradients",
    "devices",
    "elementwise",
    "get_backend",
    "initializers",
    "load",
    "losses",
    "optimizers",
    "reduction",
    "rowwise",
    "schedules",
    "trace",
    "train_test_split",
]
