"""load: the network in a model file, or one that was made in PyTorch."""

from os import PathLike
from typing import Any

from gpubp import checkpoint
from gpubp.errors import ModelFileError
from gpubp.from_torch import from_sequential
from gpubp.mlp import MLP


def load(path: Any, device: str = "auto", *, activation: Any = None, output: Any = None) -> MLP:
    """The network in a file that `MLP.save` wrote, or one that was made in PyTorch, on any device.

    From PyTorch come an `nn.Sequential`, given instead of a path, and a safetensors file with the state_dict of one.
    The file holds weights alone and needs `activation` and `output`, as `MLP` takes them. A Sequential has its own,
    which these replace; where it ends in a Linear, the output is "identity" unless `output` says what is to follow.

    A network takes inputs as they are. How `gpubp train` prepared them is in its `metadata["preprocessing"]`, and
    `gpubp.data.Preprocessing.from_config` does it again.

    Raises ModelFileError for a file that is neither, DataError for a model that gpubp cannot express.
    """
    if not isinstance(path, str | PathLike):
        return MLP._restore(*from_sequential(path, activation, output), device)
    loaded = checkpoint.load_model(path, activation, output)
    try:
        return MLP._restore(*loaded, device)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # The JSON is whole, but not what was written.
        raise ModelFileError(f"cannot make a network of {str(path)!r}: {error!s:.500}") from error
