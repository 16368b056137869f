"""Where two backends part: the first statement of an environment's `step` that they compute differently.

The function is written once more, with what its statements come to as further metrics. So both backends give them as
they give everything else, and no kernel knows of it. Nothing is told of statements inside helpers, and of whole arrays.
"""

from __future__ import annotations

import ast
import dataclasses
import linecache
import re
from collections import namedtuple
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from operant_gpu.backends.lowering.rewriting import source_of
from operant_gpu.backends.lowering.watching import Statement
from operant_gpu.environment import Environment
from operant_gpu.lang import enclosed, jit
from operant_gpu.metrics import Last
from operant_gpu.vector import Snapshot, VecEnv
from operant_gpu.verification.comparing import Differs, assert_near

# What is added has names that begin so.
_OWN = "operant_gpu_own_"


class _Probe(NamedTuple):
    """What is looked at: what a name stands for after a statement."""

    metric: str
    line: int
    name: str
    text: str


def first_difference(env: VecEnv, reference: VecEnv, snapshot: Snapshot, actions: Tensor) -> str | None:
    """Return the first statement of `step` that two sets of environments compute differently, in words.

    Args:
        env: Those whose backend is looked at.
        reference: As many like them, on the plain backend.
        snapshot: What both step from.
        actions: What they are given.

    Returns:
        File, line, statement and numbers; None if no statement differs, or there are none.
    """
    environment = env.environment
    if not isinstance(environment, Environment):
        return None
    # One that takes a step: in NEXT_STEP mode what has ended is reset.
    row = int((~snapshot.clock["ended"]).int().argmax())
    seen = env.explain(snapshot, actions.cpu()[row], row).statements
    own = [one for one in seen if one.function == environment.step.fn.__name__]
    made = _probed(environment, own)
    if made is None:
        return None
    definition, probes, file = made
    found, expected = (_measured(one, definition, snapshot, actions) for one in (env, reference))
    told = (_difference(probe.name, found[probe.metric], expected[probe.metric]) for probe in probes)
    places = (f"{file}:{probe.line}: {probe.text}" for probe in probes)
    return next((f"first in {place}: {one}" for place, one in zip(places, told, strict=True) if one), None)


def _difference(name: str, found: Tensor, expected: Tensor) -> str | None:
    try:
        assert_near(name, found, expected)
    except Differs as error:
        return str(error)
    return None


def _measured(like: VecEnv, definition: Environment, snapshot: Snapshot, actions: Tensor) -> dict[str, Tensor]:
    """Return what each probe came to in a step, (num_envs,)."""
    settings: dict[str, Any] = {"device": like.device, "backend": like.backend, "autoreset_mode": "disabled"}
    env = VecEnv(definition, like.num_envs, params=like.parameters(like.num_envs), max_episode_steps=-1, **settings)
    env.reset(seed=0)
    saved = env.state_dict()
    for part, columns in (("state", snapshot.state), ("memory", snapshot.params), ("columns", snapshot.clock)):
        saved[part] |= {name: column for name, column in columns.items() if name != "metrics"}
    saved["columns"]["ended"] = torch.zeros_like(snapshot.clock["ended"])
    env.load_state_dict(saved)
    *_, info = env.step(actions.to(env.device))
    measured: dict[str, Tensor] = info["metrics"]
    return measured


def _probed(environment: Environment, seen: list[Statement]) -> tuple[Environment, list[_Probe], str] | None:
    """Return an environment whose metrics are what its statements come to, the probes, and the author's file.

    None if its `step` ends otherwise than with one tuple.
    """
    original = environment.step.fn
    source, first_line = source_of(original)
    tree = ast.parse(source)
    ast.increment_lineno(tree, first_line - 1)
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    *body, last = function.body
    returns = sum(isinstance(node, ast.Return) for node in ast.walk(function))
    if returns != 1 or not isinstance(last, ast.Return) or not isinstance(last.value, ast.Tuple):
        return None
    texts = {one.line: one.text for one in seen}
    # In order, each once.
    numbers = dict.fromkeys((one.line, name) for one in seen for name, value in one.values.items() if _is_number(value))
    probes: list[_Probe] = []
    written: list[ast.stmt] = []
    for statement in body:
        written.append(statement)
        # Of names that are assigned within it again and again, what they come to last.
        found = sorted((line, name) for node in ast.walk(statement) for line, name in _assigned(node))
        for name, line in {name: line for line, name in found}.items():
            # Of a tuple its members.
            for part in (part for own, part in numbers if own == line and re.match(rf"{name}(\W|$)", part)):
                probes.append(_Probe(f"probe_{len(probes)}", line, part, texts[line]))
                written += ast.parse(f"{_OWN}{probes[-1].metric} = {part}").body
    if not probes:
        return None
    # Of a tuple's members the first three are kept.
    given = ", ".join(f"{probe.metric}={_OWN}{probe.metric}" for probe in probes)
    last.value.elts[3:] = [ast.parse(f"{_OWN}metrics({given})", mode="eval").body]
    function.body, function.decorator_list = [*written, last], []
    names = [probe.metric for probe in probes]
    metrics: Any = namedtuple(f"{_OWN}metrics", names, defaults=[0.0] * len(names))  # type: ignore[misc]
    metrics.__annotations__ = dict.fromkeys(metrics._fields, Last)
    namespace = {**original.__globals__, **enclosed(original), f"{_OWN}metrics": metrics}
    step = _function(ast.unparse(ast.fix_missing_locations(tree)), original.__name__, namespace)
    made = dataclasses.replace(environment, step=jit(step), metrics=metrics)
    return made, probes, original.__code__.co_filename


def _is_number(value: Any) -> bool:
    """Tell whether a value is a block of one number for each environment."""
    return isinstance(value, np.ndarray) and value.ndim == 1


def _assigned(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line of a statement with each name that it assigns to, but not those of statements within it."""
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
        yield from ((node.lineno, name) for name in names)


def _function(source: str, name: str, namespace: dict[str, Any]) -> Any:
    """Return a function of some source, which whoever asks for its source gets."""
    file = f"{name} with probes"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    exec(compile(source, file, "exec"), namespace)  # noqa: S102
    return namespace[name]
