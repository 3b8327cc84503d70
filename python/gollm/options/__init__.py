"""Options as dataclasses: one class says names, types, allowed values, defaults and help; the rest comes from it.

    @dataclass(frozen=True)
    class TrainOptions:
        batch_size: PositiveInt = 12  # sequences in a batch
        schedule: Literal["cosine", "linear"] = "cosine"  # how the learning rate falls
        data: tuple[Path, ...] = ()  # files or folders to train on

        ALIASES: ClassVar[Mapping[str, str]] = {"corpus": "data"}  # other names, understood wherever the option is
        EITHER: ClassVar = (("steps", "epochs"),)  # a flag takes the place of the --config file's other

        def __post_init__(self) -> None:
            check(self)  # a Python caller gets the same checks

parse()         command-line flags and a --config file become an object     --batch-size 12, --batch_size=12
from_mapping()  so does a dictionary that a file or a program brings
check()         the values of an object that a program made
to_mapping()    back to what JSON and YAML can write
load_file()     a YAML or JSON file as a dictionary, checked for repeated keys; to_yaml() writes one
Given           a base of such classes whose objects know which options they were given: given() lists them, replace()
                keeps them
describe()      what there is to say about each option, for help and the reference page

A mistake raises ConfigError with one sentence that names the option, its value and what is allowed. A field's help is
the comment behind it, above it, or the string below it. Types: bool, int, float, str, Path, Literal, tuple[X, ...],
dict[str, X], other dataclasses, unions, `X | None`; a range is an annotation, as in PositiveInt.
"""

from gollm.options.describe import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Option,
    PathText,
    Positional,
    PositiveFloat,
    PositiveInt,
    Range,
    describe,
)
from gollm.options.files import load_file, to_yaml
from gollm.options.flags import parse
from gollm.options.given import Given, given, replace
from gollm.options.mappings import check, from_mapping, nearest, refuse_values, to_mapping

__all__ = [
    "Fraction",
    "Given",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Option",
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
    "parse",
    "refuse_values",
    "replace",
    "to_mapping",
    "to_yaml",
]
