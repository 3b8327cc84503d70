"""Options as dataclasses: one class says names, types, allowed values, defaults and help; the rest comes from it.

    @dataclass(frozen=True)
    class TrainOptions:
        batch_size: PositiveInt = 12  # sequences in a batch
        schedule: Literal["cosine", "linear"] = "cosine"  # how the learning rate falls
        data: tuple[Path, ...] = ()  # files or folders to train on

        ALIASES: ClassVar[Mapping[str, str]] = {"corpus": "data"}  # other names, understood wherever the option is
        EITHER: ClassVar = (("steps", "epochs"),)  # a flag takes the place of the --config file's other
        DEFAULTS: ClassVar = {"data": "all of them"}  # what help says of a default, where its value says little

        def __post_init__(self) -> None:
            check(self)  # a Python caller gets the same checks

from_mapping()  a dictionary that a file or a program brings becomes an object; gollm.cli.flags does so with flags
check()         the values of an object that a program made
to_mapping()    back to what JSON and YAML can write
load_file()     a YAML or JSON file as a dictionary, checked for repeated keys; to_yaml() writes one
Given           a base of such classes whose objects know which options they were given: given() lists them, replace()
                keeps them
describe()      what there is to say about each option, for help and the reference page

A mistake raises ConfigError with one sentence that names the option, its value and what is allowed. A field's help is
the comment behind it or above it. gollm.options.types says which annotations there are.
"""

from gollm.options.fields import Given, check, describe, from_mapping, given, replace, to_mapping
from gollm.options.files import load_file, to_yaml
from gollm.options.types import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    Positional,
    PositiveFloat,
    PositiveInt,
    Range,
    nearest,
)

__all__ = [
    "Fraction",
    "Given",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PathText",
    "Positional",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "check",
    "describe",
    "from_mapping",
    "given",
    "load_file",
    "nearest",
    "replace",
    "to_mapping",
    "to_yaml",
]
