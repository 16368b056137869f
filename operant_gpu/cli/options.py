"""How options are read, where tyro's own way is too narrow."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from operant_gpu.errors import InvalidConfig, as_integer

OPTIONS = ConstructorRegistry()
PARAMETER = "--env."


def split_parameters(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments without those of an environment's parameters, and what these are by name.

    They are `--env.NAME VALUE` or `--env.NAME=VALUE`; what names there are depends on the environment.

    Raises:
        InvalidConfig: If one has no name or no value, or is given twice.
    """
    others, given = list[str](), dict[str, str]()
    words = iter(arguments)
    for word in words:
        if not word.startswith(PARAMETER):
            others.append(word)
            continue
        option, equals, value = word.partition("=")
        name, text = option.removeprefix(PARAMETER).replace("-", "_"), value if equals else next(words, None)
        if not name or text is None or text.startswith("--"):
            expected = "expected --env.NAME VALUE, such as --env.gravity 9.8 (or 5..15, log:0.1..10, 0.4,0.5,0.6)"
            raise InvalidConfig(option, f"{expected}, got {'nothing' if text is None else repr(text)}")
        if name in given:
            raise InvalidConfig(option, f"given twice, {given[name]!r} and {text!r}: leave one out")
        given[name] = text
    return others, given


@OPTIONS.primitive_rule
def _whole_number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: as_integer(value) is not None,
        str_from_instance=lambda value: [str(value)],
    )


def whole_number(text: str) -> int:
    """Return the whole number that a text is.

    Raises:
        ValueError: If it is none.
    """
    try:
        # Apart, since floats do not have all integers.
        return int(text)
    except ValueError:
        pass
    try:
        number = as_integer(float(text))
    except ValueError:
        number = None
    if number is None:
        raise ValueError(f"expected a whole number, such as 1000000 or 1e6, got {text!r}")
    return number


@OPTIONS.primitive_rule
def _name(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Take any text for one of some names: the library itself checks it, and knows it in any case."""
    if get_origin(info.type) is not Literal:
        return None
    names = get_args(info.type)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=names[0] if len(names) == 1 else "{" + ",".join(names) + "}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


@OPTIONS.primitive_rule
def _one_or_none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Take None as tyro does, without a word of it where people look for what they can give."""
    kinds = get_args(info.type)
    if get_origin(info.type) not in (Union, types.UnionType) or type(None) not in kinds:
        return None
    others: Any = Union[tuple(kind for kind in kinds if kind is not type(None))]
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(others, set(info.markers)))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return PrimitiveConstructorSpec(
        nargs=spec.nargs,
        metavar=spec.metavar,
        instance_from_str=lambda words: None if words == ["None"] else spec.instance_from_str(words),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: ["none"] if value is None else spec.str_from_instance(value),
    )
