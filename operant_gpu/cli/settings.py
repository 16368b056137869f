"""The settings of PPO as options, in the groups of docs/settings.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypedDict, cast

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from operant_gpu.cli.options import OPTIONS
from operant_gpu.models import PPOConfig

# By its name in the help: its heading in docs/settings.md, and its first setting, as `PPOConfig` has them in order.
_BEGINNINGS = {
    "length": ("How much, and how long", "num_envs"),
    "update": ("The update", "lr"),
    "input": ("What it sees", "normalize_observations"),
    "policy": ("The policy", "hidden_sizes"),
    "running": ("How it runs", "staggered_starts"),
}
# A run keeps its checkpoints itself.
_NO_OPTIONS = ("checkpoint_dir",)


@dataclass(frozen=True)
class Settings(PPOConfig):
    """Settings of PPO as they were given."""

    def __post_init__(self) -> None:
        """Leave the checks to `Train.run`, whose errors are like all others."""


def groups() -> dict[str, list[str]]:
    """Return the settings of each heading of docs/settings.md, in the order of the help."""
    headings = {first: heading for heading, first in _BEGINNINGS.values()}
    found: dict[str, list[str]] = {}
    for name in (setting.name for setting in fields(PPOConfig)):
        heading = headings.get(name) or list(found)[-1]
        found.setdefault(heading, []).append(name)
    return found


@OPTIONS.struct_rule
def _grouped(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Take the settings in a structure for each group: tyro draws a frame around the options of one."""
    if info.type is not Settings:
        return None
    plain = ConstructorRegistry.get_struct_spec(StructTypeInfo.make(PPOConfig, tyro.MISSING, in_union_context=False))
    known = {field.name: field for field in cast(StructConstructorSpec, plain).fields}
    settings: Settings = info.default

    def group(title: str, heading: str, names: Sequence[str]) -> StructFieldSpec:
        types = {name: Annotated[known[name].type, tyro.conf.arg(help=_text(known[name]))] for name in names}
        values = {name: getattr(settings, name) for name in names}
        kind = cast(Any, TypedDict)(title, types)
        return StructFieldSpec(title, kind, values, f"{heading} (docs/settings.md).")

    def put_together(**given: dict[str, Any]) -> Settings:
        return dataclasses.replace(settings, **{name: value for one in given.values() for name, value in one.items()})

    named = groups()
    parts = [
        group(title, heading, [name for name in named[heading] if name not in _NO_OPTIONS])
        for title, (heading, _) in _BEGINNINGS.items()
    ]
    return StructConstructorSpec(instantiate=put_together, fields=tuple(parts))


def _text(field: StructFieldSpec) -> str:
    """Return what stands below a setting in the source, as one line."""
    text = field.helptext() if callable(field.helptext) else field.helptext
    return " ".join((text or "").split())
