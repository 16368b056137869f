"""Explanations: one step of one environment on NumPy, from the author's source, statement by statement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu import sampling
from operant_gpu.backends.base import NO_LIMIT
from operant_gpu.backends.cpp.sanitizers import step_sanitized
from operant_gpu.backends.lowering.arrays import padded
from operant_gpu.backends.lowering.operations import NumpyRng, TableSeen
from operant_gpu.backends.lowering.programs import lower_to_numpy
from operant_gpu.backends.lowering.watching import Statement, watched
from operant_gpu.environment import Definition, Environment
from operant_gpu.lang import constexpr_value
from operant_gpu.parameters import NUMPY_DTYPES, draws_of, saveable, types
from operant_gpu.random import PARAMS_STREAM, RESET_STREAM, STEP_STREAM, uniform
from operant_gpu.spaces import ActionLayout
from operant_gpu.tables import code, report
from operant_gpu.vector.snapshots import Snapshot

_RESET, _STEP, _PARAMS = map(constexpr_value, (RESET_STREAM, STEP_STREAM, PARAMS_STREAM))
# Of an array shown, and of the draws that functions in C++ may make.
_MOST_CELLS, _DRAWS = 16, 4


@dataclass(frozen=True)
class Explanation:
    """One step of one environment, taken apart. Its string is for reading.

    Attributes:
        env: Id of the definition.
        episode: Which of its streams, from 0.
        step: Within the episode, from 0.
        action: What was given.
        before: The state before the step, by field, of one environment.
        statements: What each statement of `step`, `observe`, and `reset` where an episode begins, came to, in order;
            none of an environment in CUDA C++.
        draws: Of an environment in CUDA C++ the first numbers that `uniform` draws in the step.
        compiled: Likewise what the "cpp" backend did under the sanitizers of its compiler, in words.
        refused: Why nothing was run; None if something was.
        outside: Indices beyond tables, in words.
    """

    env: str
    episode: int
    step: int
    action: Any
    before: Mapping[str, Any]
    statements: tuple[Statement, ...] = ()
    draws: tuple[float, ...] = ()
    compiled: str | None = None
    refused: str | None = None
    outside: tuple[str, ...] = ()

    @property
    def first_fault(self) -> Statement | None:
        """The first statement with a number that is not finite; None if there is none."""
        return next((one for one in self.statements if not one.is_finite), None)

    def __str__(self) -> str:
        lines = [f"{self.env}, episode {self.episode}, step {self.step}, action {shown(self.action)}"]
        lines += [f"  {name} = {shown(value)}{_warning(value)}" for name, value in self.before.items()]
        if self.refused is not None:
            return "\n".join([*lines, f"refused: {self.refused}"])
        place = None
        for one in self.statements:
            if place != (one.file, one.function):
                place = one.file, one.function
                lines.append(f"{one.function}  ({one.file})")
            values = ", ".join(f"{name} = {shown(value)}" for name, value in one.values.items())
            mark = " " if one.is_finite else ">" if one is self.first_fault else "!"
            lines += [f"{mark} {one.line:4}  {one.text}", f"         {values}"]
        lines += [f"beyond a table: {one}" for one in self.outside]
        if self.draws:
            lines.append(f"uniform numbers of the step: {', '.join(map(shown, self.draws))}, ...")
        if self.compiled is not None:
            return "\n".join([*lines, self.compiled])
        first = self.first_fault
        found = (
            "every number is finite" if first is None else f"first not finite: {first.file}:{first.line}: {first.text}"
        )
        return "\n".join([*lines, found])


def shown(value: Any) -> str:
    """Return the number of one environment in digits, or those of an array's cells, the first ones of many."""
    flat = np.asarray(value).reshape(-1)
    texts = [f"{one:.9g}" if flat.dtype.kind == "f" else str(one) for one in flat[:_MOST_CELLS].tolist()]
    more = [f"... {flat.size} in all"] if flat.size > _MOST_CELLS else []
    return texts[0] if flat.size == 1 else f"[{', '.join([*texts, *more])}]"


def _warning(value: Any) -> str:
    return "" if np.isfinite(np.asarray(value)).all() else "  (not finite before the step)"


class Subject(NamedTuple):
    """Whose step is explained.

    Attributes:
        environment: The definition.
        given: Its parameters as they were given: numbers, tensors and distributions.
        shared: Those in memory that all environments share, tensors on the CPU, by name.
        tables: Its tables, a NamedTuple of tensors on the CPU.
        actions: Layout of its actions.
        limit: The time limit, or None.
    """

    environment: Definition
    given: Any
    shared: Mapping[str, Tensor]
    tables: Any
    actions: ActionLayout
    limit: int | None


def explain_step(subject: Subject, snapshot: Snapshot, action: np.ndarray[Any, Any]) -> Explanation:
    """Take one step of one environment.

    Args:
        subject: Of which kind it is.
        snapshot: It alone, on the CPU.
        action: What it is given, () or (k,).
    """
    clock = {name: one.numpy() for name, one in snapshot.clock.items()}
    mode, ended = AutoresetMode(snapshot.autoreset_mode), bool(clock["ended"][0])
    start = np.zeros(1, np.int32)
    step = start if ended and mode is not AutoresetMode.DISABLED else clock["elapsed"]
    before = {name: one.numpy()[0] for name, one in snapshot.state.items()}
    bare = Explanation(snapshot.env, int(clock["episode"][0]), int(step[0]), action.tolist(), before)
    only_begins = ended and mode is AutoresetMode.NEXT_STEP
    if ended and mode is AutoresetMode.DISABLED:
        return replace(bare, refused="its episode has ended: it stays as it is until it is reset")
    if (refusal := _refusal(action, subject.actions)) and not only_begins:
        return replace(bare, refused=refusal)
    if not isinstance(subject.environment, Environment):
        words = NumpyRng(clock["seed"], clock["env_id"], clock["episode"], step, _STEP)
        drawn = [float(lower_to_numpy(uniform)(words, i)[0]) for i in range(_DRAWS)]
        return replace(bare, draws=tuple(drawn), compiled=_compiled(subject, snapshot, action))
    statements: list[Statement] = []
    run = _Run(subject, snapshot, clock, statements.append)
    with np.errstate(all="ignore"):
        if only_begins:
            run.begin()
        else:
            is_over = run.step(_blocks(action, subject.actions), step)
            run.observe()
            is_over = is_over or int(step[0]) + 1 >= (subject.limit or NO_LIMIT)
            if is_over and mode is AutoresetMode.SAME_STEP:
                run.begin()
    outside = (report(subject.tables._asdict(), one) for one in run.notes.found)
    return replace(bare, statements=tuple(statements), outside=tuple(outside))


def _refusal(action: np.ndarray[Any, Any], layout: ActionLayout) -> str | None:
    """Return why a step refuses an action, or None."""
    parts = action.reshape(-1)
    if not layout.is_discrete:
        return None if np.isfinite(parts).all() else f"the action {shown(action)} is not finite"
    if all(low <= part < high for part, low, high in zip(parts, layout.low, layout.high, strict=True)):
        return None
    bounds = ", ".join(f"{low} to {high - 1}" for low, high in zip(layout.low, layout.high, strict=True))
    return f"the action {shown(action)} is out of range: it may be {bounds}"


def _blocks(action: np.ndarray[Any, Any], layout: ActionLayout) -> Any:
    """Return an action as functions see it."""
    parts = tuple(action.astype(np.int32 if layout.is_discrete else np.float32).reshape(-1, 1))
    return parts if layout.shape else parts[0]


def _compiled(subject: Subject, snapshot: Snapshot, action: np.ndarray[Any, Any]) -> str:
    """Return what a step of a CudaEnvironment does under the sanitizers, in words."""
    given = saveable(subject.given._asdict())
    # Of what each has for itself, this one's; what is drawn stays a distribution.
    own = {name: one for name, one in snapshot.params.items() if isinstance(given[name], Tensor)}
    settings = {
        "params": {**given, **subject.shared, **own, **subject.tables._asdict()},
        "autoreset_mode": snapshot.autoreset_mode,
        "max_episode_steps": -1 if subject.limit is None else subject.limit,
    }
    return step_sanitized(subject.environment, settings, snapshot.content(), torch.from_numpy(action[None]))


class _Notes:
    """Notes indices beyond tables, in place of a tape."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def note(self, index: Any, place: Any, table: int) -> None:
        """Note an index that is not where it was looked up."""
        if int(index[0]) != int(place[0]):
            self.found.append(int(index[0]) * 64 + table)


class _Run:
    """Runs the functions of one environment, on one row."""

    def __init__(
        self, subject: Subject, snapshot: Snapshot, clock: Mapping[str, Any], tell: Callable[[Statement], None]
    ) -> None:
        self._subject, self._clock, self._tell = subject, clock, tell
        self.notes, environment = _Notes(), subject.environment
        shared = {name: one.reshape(1).numpy() for name, one in subject.shared.items()}
        self._params = subject.given._replace(**shared, **{name: one.numpy() for name, one in snapshot.params.items()})
        seen = (
            TableSeen(table.reshape(-1).numpy(), tuple(table.shape), code(place), self.notes)
            for place, table in enumerate(subject.tables)
        )
        self._tables = (type(subject.tables)(*seen),) if subject.tables else ()
        self._cells = [column.cells for column in environment.column_types(subject.given).values()]
        columns = {name: one if one.ndim == 1 else one.flatten(1) for name, one in snapshot.state.items()}
        self._state = self._seen(environment.state(**{name: column.numpy() for name, column in columns.items()}))

    def _seen(self, state: Any) -> Any:
        """Return a state's columns as functions see them."""
        blocks = zip(state, self._cells, strict=True)
        return type(state)(*(padded(column, *cells) if cells else column for column, cells in blocks))

    def _call(self, name: str, *arguments: Any) -> Any:
        return watched(getattr(self._subject.environment, name), self._tell)(*arguments, self._params, *self._tables)

    def _rng(self, episode: Any, step: Any, stream: int) -> NumpyRng:
        return NumpyRng(self._clock["seed"], self._clock["env_id"], episode, step, stream)

    def step(self, action: Any, step: Any) -> bool:
        """Take a step; return whether the environment ended its episode."""
        rng = self._rng(self._clock["episode"], step, _STEP)
        self._state, _, terminated, *_ = self._call("step", self._state, action, rng)
        return bool(np.asarray(terminated).reshape(-1)[0])

    def observe(self) -> None:
        """Observe the present state."""
        self._call("observe", self._state)

    def begin(self) -> None:
        """Begin the next episode, with parameters of its own."""
        episode, start = self._clock["episode"] + np.int32(1), np.zeros(1, np.int32)
        draw, rng = lower_to_numpy(sampling.parameter), self._rng(episode, start, _PARAMS)
        given = self._subject.given
        kinds = types(given)
        drawn = {name: draw(rng, place, *one) for name, (place, one) in draws_of(given).items()}
        own = {name: np.asarray(one, NUMPY_DTYPES[kinds[name]]).reshape(-1) for name, one in drawn.items()}
        self._params = self._params._replace(**own)
        self._state = self._call("reset", self._rng(episode, start, _RESET))
        self.observe()
