"""Named components: activations, losses, optimizers, schedules, initializers, asked for by name or given as objects."""

import difflib
import inspect
import re
import sys
from typing import Any, ClassVar, Self

from gpubp.errors import DataError

# What other libraries call the same thing.
ALSO_CALLED = {
    "bce": "binary_cross_entropy",
    "linear": "identity",
    "log_loss": "cross_entropy",
    "logistic": "sigmoid",
    "mae": "absolute_error",
    "mse": "squared_error",
    "swish": "silu",
}


def did_you_mean(name: str, known: list[str]) -> str:
    """The known names as the end of an error message, the nearest one first where there is one."""
    other = ALSO_CALLED.get(name.lower())
    near = [other] if other in known else difflib.get_close_matches(name.lower(), known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known)}"


def _is_being_unpickled() -> bool:
    """Whether it is cloudpickle that makes a class here: empty, by types.new_class, to be filled afterwards."""
    maker = sys._getframe(2).f_back  # 0 is this function, 1 __init_subclass__
    return maker is not None and str(maker.f_globals.get("__name__")).endswith("cloudpickle.cloudpickle")


class Component:
    """The base of the five families.

    A direct subclass is a family; a subclass of a family is a member, known by its `name`. The name is the snake_case
    of the class unless the class states another. Defining a member registers it, so that one class statement puts it on
    every backend, in every test matrix and in the command line.
    """

    family: ClassVar[str]
    name: ClassVar[str]
    members: ClassVar[dict[str, type[Self]]]

    def __init_subclass__(cls) -> None:
        if Component in cls.__bases__:
            cls.family, cls.members = cls.__name__.lower(), {}
        elif not _is_being_unpickled():
            if "name" not in cls.__dict__:
                cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
            known = cls.members.get(cls.name)
            if known and known.__module__.startswith("gpubp.") and known.__qualname__ != cls.__qualname__:
                raise DataError(f"{cls.family} {cls.name!r} is built in; give the class {cls.__name__} another name")
            if not cls.__module__.startswith("gpubp."):  # the built-in ones are held to more than this by the tests
                cls.check_declaration()
            cls.members[cls.name] = cls  # type: ignore[assignment]

    @classmethod
    def check_declaration(cls) -> None:
        """Refuse a member that could not work, as its class statement ends."""

    @classmethod
    def resolve(cls, spec: Any) -> Self:
        """The component that `spec` names or is; DataError with the nearest known name otherwise."""
        if isinstance(spec, cls):
            return spec
        if isinstance(spec, str):
            if spec in cls.members:
                return cls.members[spec]()
            raise DataError(f"{cls.family} {spec!r} is not known; {did_you_mean(spec, sorted(cls.members))}")
        if isinstance(spec, type) and issubclass(spec, cls):
            raise DataError(
                f"{cls.family} must be an object, got the class {spec.__name__}; call it: {spec.__name__}()"
            )
        raise DataError(
            f"{cls.family} must be a name or a gpubp {cls.__name__}, got {spec!r}; "
            f"known: {', '.join(sorted(cls.members))}"
        )

    def config(self) -> dict[str, Any]:
        """The name and the constructor's arguments: what a model file keeps, and `from_config` takes."""
        arguments = list(inspect.signature(type(self)).parameters)
        return {"name": self.name, **{argument: getattr(self, argument) for argument in arguments}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        arguments = {key: value for key, value in config.items() if key != "name"}
        if config["name"] not in cls.members:
            raise DataError(f"{cls.family} {config['name']!r} is not known here; define or import its class first")
        return cls.members[config["name"]](**arguments)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.config().items() if key != "name")
        return f"{type(self).__name__}({arguments})"
