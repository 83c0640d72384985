"""What gpubp raises: every message names the parameter, its value, what was expected and what to do."""


class GpubpError(Exception):
    """The base of every error that gpubp raises on purpose."""


class DataError(GpubpError, ValueError):
    """A value that cannot be used: data, labels, weights, a setting or a name."""


class ShapeError(GpubpError, ValueError):
    """An array whose shape does not fit the network."""


class DeviceError(GpubpError):
    """The device asked for is not there, or cannot do what was asked."""


class DivergenceError(GpubpError, RuntimeError):
    """Training produced a loss or a parameter that is not finite."""


class ModelFileError(GpubpError):
    """A model file that cannot be read or written."""
