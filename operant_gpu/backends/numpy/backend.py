"""The NumPy backend: the lowered functions over whole columns, resets over the rows that ended."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.backends.base import Batch, numpy_view
from operant_gpu.backends.lowering.arrays import padded
from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.backends.stepwise import StepwiseRollout
from operant_gpu.lang import constexpr_value
from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.trajectory import Trajectory
from operant_gpu.mlp import MLP
from operant_gpu.parameters import draws_of
from operant_gpu.random import PARAMS_STREAM, RESET_STREAM, STEP_STREAM
from operant_gpu.spaces import ActionLayout

Array = np.ndarray[Any, Any]
_UNSIGNED: dict[int, Any] = {4: np.dtype(np.uint32), 8: np.dtype(np.uint64)}

_RESET_STREAM, _STEP_STREAM, _PARAMS_STREAM = map(constexpr_value, (RESET_STREAM, STEP_STREAM, PARAMS_STREAM))


class NumpyBackend:
    """Implements `Backend` on the CPU, in the memory of the batch's tensors."""

    def __init__(self, batch: Batch) -> None:
        environment = batch.environment
        programs = batch.trial.programs
        assert programs is not None
        tables = {name: numpy_view(table).reshape(-1) for name, table in batch.tables._asdict().items()}
        known: dict[str, Any] = {"tables": SimpleNamespace(**tables)} if tables else {}
        self._draw = programs.draw_params.compile("draw_params", "rng", known)
        self._reset = programs.reset.compile("reset", "params, rng, outside", known)
        self._step = programs.step.compile("step", "state, params, action, rng, metrics, outside", known)
        self._observe = programs.observe.compile("observe", "state, params, outside", known)
        self._action_mask = programs.action_mask.compile("action_mask", "state, params, outside", known)
        self._layout, self._limit = batch.actions, batch.max_episode_steps
        self._mode = batch.autoreset_mode
        # Arrays (num_envs, size), whatever their axes.
        columns = (column if column.ndim == 1 else column.flatten(1) for column in batch.state)
        self._state = environment.state(*map(numpy_view, columns))
        self._cells = [column.cells for column in environment.column_types(batch.params).values()]
        self._position = {id(column): position for position, column in enumerate(self._state)}
        # Shared ones as columns too, in the same memory.
        memory = {name: np.broadcast_to(numpy_view(tensor), (batch.num_envs,)) for name, tensor in batch.memory.items()}
        self._params, self._memory = batch.params._replace(**memory), memory
        self._drawn = [numpy_view(batch.memory[name]) for name in draws_of(batch.params)]
        # A caller's outputs are not kept alive.
        self._own, self._own_views = batch.outputs, _arrays(batch.outputs)
        self._columns: Any = _arrays(batch.columns)
        self._outside: Array | None = self._columns.outside
        self._metrics: list[Array] = [] if batch.columns.metrics is None else list(self._columns.metrics)
        self._starts = [row.start for row in environment.metric_rows]
        self._rollout = StepwiseRollout(self, batch)

    def reset(self, mask: Tensor, outputs: Outputs) -> None:
        """Begin a new episode where `mask` holds and write every row's observation and action mask."""
        out, columns = self._views_of(outputs), self._columns
        rows = numpy_view(mask).nonzero()[0]
        columns.ended[rows] = False
        self._begin_clock(rows)
        with np.errstate(all="ignore"):
            self._begin_episodes(rows)
            blocks = self._blocks()
            _write(out.obs, self._run(self._observe, blocks, self._params))
            _write(out.action_mask, self._run(self._action_mask, blocks, self._params))

    def step(self, actions: Tensor, outputs: Outputs) -> None:
        """Advance every environment by one action."""
        out, taken = self._views_of(outputs), numpy_view(actions)
        columns = self._columns
        waiting = columns.ended.nonzero()[0]
        if waiting.size and self._mode is not AutoresetMode.DISABLED:
            self._begin_clock(waiting)
        with np.errstate(all="ignore"):
            active = self._active_rows(taken, waiting)
            self._advance(taken, active, out)
            done = self._count(active, out)
            self._finish(done, waiting, out)
            _write(out.action_mask, self._run(self._action_mask, self._blocks(), self._params))

    def rollout(self, num_steps: int, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs) -> None:
        """Take many steps, one after the other."""
        self._rollout.run(num_steps, policy, trajectory, outputs)

    def _views_of(self, outputs: Outputs) -> Any:
        return self._own_views if outputs is self._own else _arrays(outputs)

    def _run(self, program: Any, *arguments: Any, rows: Any = ..., where: Any = True) -> Any:
        """Return a program's results for some rows; keep what it notes, where that holds, of indices beyond tables."""
        if self._outside is None:
            return program(*arguments, None)
        *results, noted = program(*arguments, self._outside[rows])
        self._outside[rows] = np.where(where, noted, self._outside[rows])
        return results

    def _begin_clock(self, rows: Array) -> None:
        """Count from zero in these rows."""
        self._columns.elapsed[rows], self._columns.episode_return[rows] = 0, 0.0
        for metric, start in zip(self._metrics, self._starts, strict=True):
            metric[rows] = start

    def _active_rows(self, actions: Array, waiting: Array) -> Array | None:
        """Return the mask of the rows that take their action, or None where all do; count the others."""
        columns = self._columns
        skips_ended = self._mode is not AutoresetMode.SAME_STEP and waiting.size > 0
        if not skips_ended and _all_valid(actions, self._layout):
            return None
        valid: Array = _valid_actions(actions, self._layout)
        if not skips_ended:
            _increase(columns.bad_actions, ~valid)
            return valid
        _increase(columns.bad_actions, ~valid & ~columns.ended)
        if self._mode is AutoresetMode.DISABLED:
            _increase(columns.late_steps, columns.ended)
        active: Array = valid & ~columns.ended
        return active

    def _advance(self, actions: Array, active: Array | None, out: Any) -> None:
        columns = self._columns
        rng = NumpyRng(columns.seed, columns.env_id, columns.episode, columns.elapsed, _STEP_STREAM)
        arguments = (self._blocks(), self._params, _action_blocks(actions, self._layout), rng, self._metrics)
        results = self._run(self._step, *arguments, where=True if active is None else active)
        size = len(self._state)
        stepped, (reward, terminated, *metrics) = results[:size], results[size:]
        # State last: a function may return its input columns as anything.
        out.reward[...], out.terminated[...] = reward, terminated
        for metric, new in zip(self._metrics, metrics, strict=True):
            np.copyto(metric, new, where=True if active is None else active)
        for column, new in zip(self._state, self._detached(stepped), strict=True):
            if active is None:
                column[...] = _real_cells(column, new)
            else:
                where = active if column.ndim == 1 else active[:, None]
                np.copyto(column, _real_cells(column, new), where=where, casting="unsafe")
        if active is not None:
            out.reward[~active], out.terminated[~active] = 0.0, False

    def _detached(self, stepped: Sequence[Any]) -> Sequence[Any]:
        """Copy the values that are another field's column: writing one would change the other."""
        position = self._position
        return [new.copy() if position.get(id(new), i) != i else new for i, new in enumerate(stepped)]

    def _count(self, active: Array | None, out: Any) -> Array:
        """Move the clock and the statistics on; return the rows whose episode ended."""
        columns = self._columns
        _increase(columns.elapsed, 1 if active is None else active)
        _increase(columns.episode_return, out.reward)
        np.greater_equal(columns.elapsed, self._limit, out=out.truncated)
        if active is not None:
            np.logical_and(out.truncated, active, out=out.truncated)
        ended = out.terminated | out.truncated
        done: Array = ended.nonzero()[0]
        if done.size:
            columns.log_count[done] += 1
            columns.log_return[done] += columns.episode_return[done]
            columns.log_length[done] += columns.elapsed[done]
            for place, metric in enumerate(self._metrics):
                columns.log_metrics[place, done] += metric[done]
        if self._mode is AutoresetMode.DISABLED:
            np.logical_or(columns.ended, ended, out=columns.ended)
        else:
            columns.ended[...] = ended
        return done

    def _finish(self, done: Array, waiting: Array, out: Any) -> None:
        """Reset the rows that the mode resets now, and observe."""
        if self._mode is AutoresetMode.SAME_STEP:
            _write(out.final_obs, self._run(self._observe, self._blocks(), self._params))
            np.copyto(out.obs, out.final_obs)
            if done.size:
                _write(out.obs, self._run(self._observe, *self._begin_episodes(done), rows=done), done)
            return
        if self._mode is AutoresetMode.NEXT_STEP and waiting.size:
            self._begin_episodes(waiting)
        _write(out.obs, self._run(self._observe, self._blocks(), self._params))

    def _begin_episodes(self, rows: Array) -> tuple[Any, Any]:
        """Reset the given rows; return their new state and parameters."""
        columns = self._columns
        columns.episode[rows] += 1
        counter = columns.seed[rows], columns.env_id[rows], columns.episode[rows], np.zeros(rows.size, np.int32)
        params = self._params
        if self._memory:
            for column, new in zip(self._drawn, self._draw(NumpyRng(*counter, _PARAMS_STREAM)), strict=True):
                column[rows] = new
            params = params._replace(**{name: column[rows] for name, column in self._memory.items()})
        fresh = self._run(self._reset, params, NumpyRng(*counter, _RESET_STREAM), rows=rows)
        for column, new in zip(self._state, fresh, strict=True):
            column[rows] = _real_cells(column, new)
        return self._blocks(rows), params

    def _blocks(self, rows: Array | None = None) -> Any:
        """Return the state of all rows, or of some, as functions see it."""
        columns = self._state if rows is None else [column[rows] for column in self._state]
        blocks = zip(columns, self._cells, strict=True)
        return type(self._state)(*(padded(column, *cells) if cells else column for column, cells in blocks))


def _increase(column: Array, amount: Any) -> None:
    np.add(column, amount, out=column)


def _all_valid(actions: Array, layout: ActionLayout) -> bool:
    if layout.shape or layout.low[0] != 0:
        return bool(_valid_actions(actions, layout).all())
    # Read as unsigned, negative numbers are huge: one reduction finds both faults.
    return bool(np.maximum.reduce(actions.view(_UNSIGNED[actions.itemsize])) < layout.high[0])


def _valid_actions(actions: Array, layout: ActionLayout) -> Array:
    """Return the mask of the rows whose action is in range, or finite."""
    components = actions.reshape(len(actions), -1).T
    if not layout.is_discrete:
        return np.asarray(np.isfinite(components).all(axis=0))
    bounds = zip(components, layout.low, layout.high, strict=True)
    checks = [(component >= low) & (component < high) for component, low, high in bounds]
    return np.asarray(np.logical_and.reduce(checks))


def _action_blocks(actions: Array, layout: ActionLayout) -> Any:
    """Return actions as environment functions take them: a block, or a tuple of blocks."""
    dtype = np.int32 if layout.is_discrete else np.float32
    if not layout.shape:
        return np.ascontiguousarray(actions, dtype)
    return tuple(np.ascontiguousarray(column, dtype) for column in actions.reshape(len(actions), -1).T)


def _real_cells(column: Array, new: Any) -> Any:
    """Leave out of a block what lies beyond a column's cells."""
    return new[:, : column.shape[1]] if np.ndim(new) == 2 else new


def _arrays(tensors: Any) -> Any:
    """Return a NamedTuple of tensors as one of arrays."""
    return tensors._make(None if tensor is None else numpy_view(tensor) for tensor in tensors)


def _write(target: Array, components: Sequence[Any], rows: Any = ...) -> None:
    """Write components, each a number or an equal share of an observation."""
    if not components:
        return
    share = target.shape[1] // len(components)
    for position, component in enumerate(components):
        if share == 1:
            target[:, position][rows] = component
        else:
            part = target[:, position * share : (position + 1) * share]
            part[rows] = _real_cells(part, component)
