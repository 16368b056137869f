"""Where the numba backend's kernels find a batch: columns in memory and in blocks, and the compiled programs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from operant_gpu.backends.base import Batch, numpy_view
from operant_gpu.backends.lowering.programs import trace_random_policy
from operant_gpu.backends.lowering.tracing import Program
from operant_gpu.backends.numba.cache import compiled
from operant_gpu.backends.numba.source import Slots, source_of
from operant_gpu.kernels.numba.block import BATCH, workspace_bytes
from operant_gpu.kernels.numba.memory import EIGHT_BYTES, FOUR_BYTES, SIGNED_BYTE, TWO_BYTES, UNSIGNED_BYTE
from operant_gpu.lang import constexpr_value
from operant_gpu.memory.columns import USUAL_COLUMNS
from operant_gpu.memory.records import MODES, Record
from operant_gpu.parameters import NUMPY_DTYPES, draws_of, types
from operant_gpu.random import PARAMS_STREAM, POLICY_STREAM, RESET_STREAM, STEP_STREAM

# Columns that kernels write where they are; others are moved into blocks.
_ADDRESSES = {*USUAL_COLUMNS, "log_metrics"}
COLUMN_KINDS = {
    torch.float32: FOUR_BYTES,
    torch.int32: FOUR_BYTES,
    torch.float64: EIGHT_BYTES,
    torch.int64: EIGHT_BYTES,
    torch.bool: UNSIGNED_BYTE,
    torch.uint8: UNSIGNED_BYTE,
    torch.int8: SIGNED_BYTE,
    torch.int16: TWO_BYTES,
}


class BatchRecord(Record):
    """What kernels read of a batch, and all that it refers to, which must live as long.

    Attributes:
        workspace_bytes: The memory that a kernel works in.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch, self._slots = batch, Slots()
        self._arrays: list[np.ndarray[Any, Any]] = []
        programs = batch.trial.programs
        assert programs is not None
        columns, actions = batch.environment.column_types(batch.params), batch.actions
        action_dtype = np.int32 if actions.is_discrete else np.float32
        self._action = self._group("action", [action_dtype] * actions.size, actions.shape != ())
        first_state = self._slots.narrow
        state = [self._slots.add(f"state.{name}", column.dtype) for name, column in columns.items()]
        # What is drawn goes where the state goes: with a new episode to its row.
        drawn = [self._param(name) for name in draws_of(batch.params)]
        state_end, noted_slot = self._slots.narrow, self._slots.wide
        # Where there is one, the column of what is noted of indices beyond tables.
        self._noted = [] if batch.columns.outside is None else [self._slots.add("outside", np.int64)]
        metrics_slot, rows = self._slots.wide, batch.environment.metric_rows
        metrics = self._group("metrics", [np.float64] * len(rows))
        given, shared = self._given()
        params_end = self._slots.narrow
        observe, obs = self._observation(programs.observe)
        mask = self._group("mask", [np.bool_] * actions.num_actions if batch.environment.has_action_mask else [])
        for name, table in batch.tables._asdict().items():
            self._slots.add_table(f"tables.{name}", numpy_view(table).dtype, table.numel())

        named = {f"state.{name}": column for name, column in batch.state._asdict().items()}
        named |= {f"params.{name}": tensor for name, tensor in batch.memory.items()}
        named |= {"outside": batch.columns.outside}
        named |= zip(metrics, () if batch.columns.metrics is None else batch.columns.metrics, strict=True)
        kept = (*state, *drawn, *self._noted, *metrics)
        moved = [
            (named[name].data_ptr(), COLUMN_KINDS[named[name].dtype], self._slots.slot(name))
            for name in (*kept, *given, *shared)
        ]
        self.workspace_bytes = workspace_bytes(self._slots.narrow, self._slots.wide)
        fields = {
            "mode": MODES[batch.autoreset_mode],
            "limit": batch.max_episode_steps,
            "narrow": self._slots.narrow,
            "wide": self._slots.wide,
            "state": self._address(moved),
            "num_columns": len(kept),
            "num_loaded": len(kept) + len(given),
            "num_shared": len(shared),
            **{
                name: column.data_ptr()
                for name, column in batch.columns._asdict().items()
                if column is not None and name in _ADDRESSES
            },
            "num_envs": batch.num_envs,
            "tables": self._address([table.data_ptr() for table in batch.tables]),
            "noted": noted_slot,
            "metrics_slot": metrics_slot,
            "num_metrics": len(metrics),
            "starts": self._address([row.start for row in rows], np.float64),
            "step": self._compiled(
                programs.step, [*state, "reward", "terminated", *metrics, *self._noted], STEP_STREAM
            ),
            "draw_params": self._compiled(programs.draw_params, drawn, PARAMS_STREAM),
            "reset": self._compiled(programs.reset, [*state, *self._noted], RESET_STREAM),
            "observe": self._compiled(observe, [*(name for name in obs if name.startswith("obs")), *self._noted]),
            "mask": self._compiled(programs.action_mask, [*mask, *self._noted] if mask else []),
            "draws": any(where.startswith("rng.") for where in programs.step.inputs.values()),
            "action_slots": self._numbers(self._action),
            "action_size": len(self._action),
            "low": self._address(actions.low),
            "high": self._address(actions.high),
            "state_slot": first_state,
            "state_end": state_end,
            "params_end": params_end,
            "obs_slots": self._numbers(obs),
            "obs_size": len(obs),
            "obs_kind": COLUMN_KINDS[batch.observations.torch_dtype],
            "obs_bytes": batch.observations.dtype.itemsize,
            "mask_slots": self._numbers(mask),
            "mask_size": len(mask),
        }
        super().__init__(BATCH, fields)

    @functools.cached_property
    def random_policy(self) -> int:
        """Address of the program that draws random actions, compiled when it is first wanted."""
        batch = self._batch
        given = batch.params, batch.tables, batch.actions
        program = trace_random_policy(batch.environment, *given, notes=bool(self._noted))
        return self._compiled(program, [*self._action, *self._noted], POLICY_STREAM)

    def _given(self) -> tuple[list[str], list[str]]:
        """Give places to the parameters in memory that are not drawn: those of each environment, and those of all."""
        drawn = draws_of(self._batch.params)
        given = {name: tensor for name, tensor in self._batch.memory.items() if name not in drawn}
        own = [self._param(name) for name, tensor in given.items() if tensor.ndim]
        return own, [self._param(name) for name, tensor in given.items() if not tensor.ndim]

    def _param(self, name: str) -> str:
        return self._slots.add(f"params.{name}", NUMPY_DTYPES[types(self._batch.params)[name]])

    def _group(self, name: str, dtypes: Sequence[Any], numbered: bool = True) -> list[str]:
        """Give places to columns `name[0]`, `name[1]`, ...; return their names."""
        return [self._slots.add(f"{name}[{i}]" if numbered else name, dtype) for i, dtype in enumerate(dtypes)]

    def _compiled(self, program: Program, results: Sequence[str], stream: Any = 0) -> int:
        """Return the address of a compiled program, 0 if there is nothing to compute."""
        if not results:
            return 0
        return int(compiled(source_of(program, self._slots, results, constexpr_value(stream))).address)

    def _observation(self, program: Program) -> tuple[Program, list[str]]:
        """Return the program of what has to be computed, and the columns of all components: some are the state's."""
        size = len(program.results) - len(self._noted)
        # Narrower integers are int32 in the block.
        dtype = np.float32 if self._batch.observations.dtype.kind == "f" else np.int32
        names, computed = [], []
        for i, result in enumerate(program.results[:size]):
            column = program.inputs.get(getattr(result, "name", ""), "")
            if column and result.dtype == dtype:
                names.append(column)
            else:
                names.append(self._slots.add(f"obs[{i}]", dtype))
                computed.append(result)
        return program._replace(results=(*computed, *program.results[size:])), names

    def _numbers(self, names: Sequence[str]) -> int:
        return self._address([self._slots.slot(name) for name in names])

    def _address(self, numbers: Sequence[Any], dtype: Any = np.int64) -> int:
        """Return the address of these numbers."""
        self._arrays.append(np.array(numbers, dtype))
        return int(self._arrays[-1].ctypes.data)
