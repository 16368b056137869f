"""The program of a CudaEnvironment: one C++ source for both compilers, around the author's file.

Before the author's functions come the structures that the definition describes, after them the loops of
`kernels/cuda/vecenv.cuh`. `#line` directives let compilers name the author's own lines.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from operant_gpu import sampling
from operant_gpu.backends.base import Batch
from operant_gpu.backends.cuda.file import check_functions, digests, read, signatures
from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.errors import InvalidConfig
from operant_gpu.fields import ColumnType
from operant_gpu.memory.allocation import array_stride
from operant_gpu.memory.columns import COLUMN_DTYPES, USUAL_COLUMNS
from operant_gpu.memory.records import CALL, MODES
from operant_gpu.metrics import LAST, MAX, MEAN, MIN, STEPS, SUM, Row
from operant_gpu.parameters import draws_of, in_memory, is_number, types
from operant_gpu.randomization import Draw
from operant_gpu.spaces import ActionLayout, ObservationLayout, action_layout, observation_layout
from operant_gpu.tables import code

# Bytes of one environment's state, which lies on the stack of a thread.
MAX_STATE = 1 << 16
KERNELS = ("operant_steps", "operant_reset", "operant_draw")
_MOST_LINES = 100
_FOLDER = Path(__file__).parents[2] / "kernels" / "cuda"
_TYPES = {
    "bool": "bool", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t", "uint8": "uint8_t",
    "float32": "float", "float64": "double",
}  # fmt: skip
_POINTERS = {
    "obs": "Observed*", "final_obs": "Observed*", "present_obs": "Observed*", "actions": "const void*",
    "action": "void*", "action_mask": "bool*", "present_mask": "bool*", "reward": "float*", "terminated": "bool*",
    "truncated": "bool*", "outputs": "const float*", "log_std": "const float*", "drawn": "void*", "taken": "float*",
    "log_prob": "float*",
}  # fmt: skip

_PARAM_TYPES = {bool: "bool", int: "int32_t", float: "float"}
_METRICS = {
    STEPS.value: "{at} += 1.0",
    LAST.value: "{at} = value",
    SUM.value: "{at} += value",
    MEAN.value: "{at} += (value - {at}) / {steps}",
    MAX.value: "{at} = fmax({at}, value)",
    MIN.value: "{at} = fmin({at}, value)",
}
# What the record that is the same for every call has after all pointers.
NUMBERS = ("num_envs", "array_stride", "mode", "limit")
# What a draw from a network's distribution reads and writes.
DRAW = (
    *("outputs", "outputs_row", "outputs_column", "log_std", "action_mask", "action_mask_row", "action_mask_column"),
    *("drawn", "taken", "log_prob", "scales"),
)


class Known(NamedTuple):
    """What a program is made for, beside the environment.

    Attributes:
        params: Its parameters, as they were given.
        tables: Its tables.
        notes: Whether indices beyond them are noted.
    """

    params: Any
    tables: Any = ()
    notes: bool = False


def known_of(batch: Batch) -> Known:
    """Return what a batch's program is made for."""
    return Known(batch.params, batch.tables, batch.columns.outside is not None)


def structures(environment: CudaEnvironment, known: Known) -> str:
    """Return the structures that the author's functions work on, as C++ and as errors show them."""
    params = known.params
    observations, actions = _layouts(environment, known)
    fields = "".join(
        f"    {_TYPES[column.dtype.name]} {name}{''.join(f'[{size}]' for size in column.shape)};\n"
        for name, column in environment.column_types(params).items()
    )
    kinds = types(params)
    constants = "".join(
        f"    {_constant(name, value) if is_number(value) else f'{_PARAM_TYPES[kinds[name]]} {name};'}\n"
        for name, value in params._asdict().items()
    )
    if in_memory(params):
        # What an author makes of it would have no values.
        constants += "    Params() = delete;\n    __device__ explicit Params(decltype(nullptr)) {}\n"
    return "\n".join(
        [
            f"struct State {{\n{fields}}};",
            f"struct Params {{\n{constants}}};",
            *_tables(environment, known),
            *_metrics(environment),
            _OUTCOME.format(metrics=_REPORT if environment.metrics._fields else ""),
            _action(actions),
            _OBSERVATION.format(type=_TYPES[observations.dtype.name], index=_index(observations.shape)),
        ]
    )


def _tables(environment: CudaEnvironment, known: Known) -> list[str]:
    if not environment.has_tables:
        return []
    fields = "".join(
        f"    Table<{', '.join((_type_of(table.dtype), *map(str, table.shape)))}> {name};\n"
        for name, table in known.tables._asdict().items()
    )
    return [f"struct Tables {{\n{fields}}};"]


def _metrics(environment: CudaEnvironment) -> list[str]:
    defaults = environment.metrics._field_defaults
    fields = "".join(f"    float {name} = {_float(defaults.get(name, 0.0))};\n" for name in environment.metrics._fields)
    return [f"struct Metrics {{\n{fields}}};"] if fields else []


def _type_of(dtype: torch.dtype) -> str:
    return _TYPES[str(dtype).removeprefix("torch.")]


# With a constructor: without it, whoever left the metrics out would report zeros.
_REPORT = """    Metrics metrics;
    __device__ Outcome(float reward, int32_t terminated, const Metrics& metrics)
        : reward(reward), terminated(terminated), metrics(metrics) {}
"""
_OUTCOME = """// What a step returns beside the state.
struct Outcome {{
    float reward;
    // A condition; as a bool it would keep GCC from vectorizing the loop over steps.
    int32_t terminated;
{metrics}}};"""


def program(environment: CudaEnvironment, known: Known) -> str:
    """Return the whole program.

    Raises:
        InvalidConfig: If the author's file cannot be read or lacks a function.
    """
    params = known.params
    observations, actions = _layouts(environment, known)
    path = Path(environment.source).resolve()
    if (
        size := sum(column.size * column.dtype.itemsize for column in environment.column_types(params).values())
    ) > MAX_STATE:
        raise InvalidConfig("state", f"expected at most {MAX_STATE:,} bytes an environment, on a stack, got {size:,}")
    author = read(path)
    check_functions(author, environment)
    return "\n".join(
        [
            f"// {environment.id}, of files {digests(path, author)}",
            "#define OPERANT_NOTES" if known.notes else "",
            _included("environment.cuh"),
            *([_included("table.cuh")] if environment.has_tables else []),
            _line(1, "made from the definition"),
            structures(environment, known),
            _line(1, str(path)),
            author,
            _line(1, "made from the definition"),
            _description(environment, known, observations, actions),
            *map(_included, ("sampling.cuh", "block.cuh", "observations.cuh", "actions.cuh", "vecenv.cuh")),
        ]
    )


def batch_record(batch: Batch) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return names and values of the record `Batch`."""
    columns = {f"state {name}": column for name, column in batch.state._asdict().items()}
    columns |= {name: column for name, column in batch.columns._asdict().items() if column is not None}
    columns |= {f"param {name}": tensor for name, tensor in batch.memory.items()}
    columns |= {f"table {name}": table for name, table in batch.tables._asdict().items()}
    numbers = {
        "num_envs": batch.num_envs,
        "array_stride": array_stride(batch.num_envs),
        "mode": MODES[batch.autoreset_mode],
        "limit": batch.max_episode_steps,
    }
    values = {name: column.data_ptr() for name, column in columns.items()} | numbers
    return tuple(values), values


def _layouts(environment: CudaEnvironment, known: Known) -> tuple[ObservationLayout, ActionLayout]:
    observation, action = environment.spaces(known.params, known.tables)
    return observation_layout(observation), action_layout(action)


def _constant(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"static constexpr bool {name} = {str(value).lower()};"
    if isinstance(value, int):
        if abs(value) >= 2**63:
            raise InvalidConfig(name, f"must fit in 64 bits, got {value}")
        kind, suffix = ("int32_t", "") if abs(value) < 2**31 else ("int64_t", "ll")
        return f"static constexpr {kind} {name} = {value}{suffix};"
    if abs(value) > float(np.finfo(np.float32).max):
        raise InvalidConfig(name, f"must fit in a float of 32 bits, got {value}")
    return f"static constexpr float {name} = {float(np.float32(value))!r}f;"


def _action(actions: ActionLayout) -> str:
    kind = "int32_t" if actions.is_discrete else "float"
    if not actions.shape:
        return f"using Action = {kind};"
    return (
        f"struct Action {{\n    {kind} values[{actions.size}];\n"
        f"    __device__ {kind} operator[](int i) const {{ return values[i]; }}\n}};"
    )


def _index(shape: tuple[int, ...]) -> str:
    """Return the operator that takes one index for each axis."""
    if not shape:
        return ""
    names = [f"i{axis}" for axis in range(len(shape))]
    flat = names[0]
    for name, size in zip(names[1:], shape[1:], strict=True):
        flat = f"({flat}) * {size} + {name}"
    return (
        f"    __device__ Observed& operator()({', '.join(f'int {name}' for name in names)}) const "
        f"{{ return (*this)[{flat}]; }}\n"
    )


_OBSERVATION = """using Observed = {type};
struct Observation {{
    Observed* first;
    int64_t stride;
    __device__ Observed& operator[](int i) const {{ return first[i * stride]; }}
{index}}};"""


def _description(
    environment: CudaEnvironment, known: Known, observations: ObservationLayout, actions: ActionLayout
) -> str:
    """Return what the loops need to know: records, moves of a state, what is given, kinds and bounds of actions."""
    params, rows = known.params, environment.metric_rows
    columns = environment.column_types(params)
    state = "".join(f"    {_TYPES[column.dtype.name]}* state_{name};\n" for name, column in columns.items())
    kinds = types(params)
    memory = "".join(f"    {_PARAM_TYPES[kinds[name]]}* param_{name};\n" for name in in_memory(params))
    others = (*(("metrics", "log_metrics") if rows else ()), *(("outside",) if known.notes else ()))
    batch = state + "".join(f"    {_field(name)}\n" for name in (*USUAL_COLUMNS, *others)) + memory
    tables = known.tables._asdict() if environment.has_tables else {}
    batch += "".join(f"    const {_type_of(table.dtype)}* table_{name};\n" for name, table in tables.items())
    batch += "".join(f"    {_field(name)}\n" for name in NUMBERS)
    found = ", ".join(_found(place, name, known.notes) for place, name in enumerate(tables))
    call, draw = (
        "".join(f"    {_POINTERS.get(name, 'int64_t')} {name};\n" for name in names) for names in (CALL, DRAW)
    )
    loads = "".join(_moved(name, column, "{0} = {1};") for name, column in columns.items())
    stores = "".join(_moved(name, column, "{1} = {0};") for name, column in columns.items())
    scalar = not actions.shape
    kind = "int32_t" if actions.is_discrete else "float"
    return _DESCRIPTION.format(
        batch=batch,
        call=call,
        draw=draw,
        loads=loads,
        stores=stores,
        kind=kind,
        component="action" if scalar else "action.values[i]",
        observation_size=observations.size,
        action_size=actions.size,
        is_discrete=str(actions.is_discrete).lower(),
        has_mask=str(environment.has_action_mask).lower(),
        num_choices=actions.num_actions,
        made="(nullptr)" if in_memory(params) else "",
        params="".join(f"    {_loaded(name, getattr(params, name))}\n" for name in in_memory(params)),
        draws="".join(f"    {_drawn(name, *draw)}\n" for name, draw in draws_of(params).items()),
        is_legal=_IS_LEGAL if environment.has_action_mask else "true",
        tables=_TABLES.format(made=found) if tables else _NO_TABLES,
        has_metrics=str(bool(rows)).lower(),
        begin="".join(f"    {_metric(i)} = {_float(row.start)};\n" for i, row in enumerate(rows)),
        measure="".join(f"    {_measured(i, row)}\n" for i, row in enumerate(rows)),
        log="".join(f"    {_metric(i, 'log_metrics')} += {_metric(i)};\n" for i in range(len(rows))),
        low=_chosen(actions.low, "0"),
        high=_chosen(actions.high, "0"),
        first=_chosen(actions.first_choices, "0"),
        **{
            f"box_{name}": _chosen(map(_float, numbers), "0.0f")
            for name, numbers in actions.scaling(True)._asdict().items()
        },
    )


def _found(place: int, name: str, notes: bool) -> str:
    """Return the members of a table."""
    return f"{{batch.table_{name}{f', batch.outside + row, {code(place)}' if notes else ''}}}"


def _measured(i: int, row: Row) -> str:
    """Return the statements that take a step's value into a row of the metrics."""
    value = f"const double value = outcome.metrics.{row.name}; " if row.name else ""
    return f"{{ {value}{_METRICS[row.kind].format(at=_metric(i), steps=_metric(0))}; }}"


def _metric(i: int, rows: str = "metrics") -> str:
    """Return the place of an environment's number in a row of the metrics."""
    return f"batch.{rows}[{i} * batch.num_envs + row]"


def _field(name: str) -> str:
    dtype = COLUMN_DTYPES.get(name)
    return f"int64_t {name};" if dtype is None else f"{_type_of(dtype)}* {name};"


def _moved(name: str, column: ColumnType, assignment: str) -> str:
    """Return the statement that moves a column's row between memory and a structure."""
    kind = _TYPES[column.dtype.name]
    if not column.shape:
        return "    " + assignment.format(f"state.{name}", f"batch.state_{name}[row]") + "\n"
    inside, outside = f"(({kind}*)state.{name})[i]", f"batch.state_{name}[i * batch.array_stride + row]"
    return f"    for (int i = 0; i < {column.size}; ++i) {assignment.format(inside, outside)}\n"


def _loaded(name: str, value: Any) -> str:
    """Return the statement that reads a parameter in memory."""
    place = "0" if isinstance(value, Tensor) and value.ndim == 0 else "row"
    return f"params.{name} = batch.param_{name}[{place}];"


def _drawn(name: str, place: int, draw: Draw) -> str:
    """Return the statement that draws a parameter, as `sampling.parameter` does; by names that no author has."""
    numbers = draw.numbers

    def uniform() -> str:
        # The width as the other backends have it: of doubles.
        return f"operant::unit(operant::word(rng, {place})) * {_float(numbers[1] - numbers[0])} + {_float(numbers[0])}"

    def clipped(value: str) -> str:
        return f"fminf(fmaxf({value}, {_float(numbers[2])}), {_float(numbers[3])})"

    if draw.kind == sampling.UNIFORM.value:
        value = uniform()
    elif draw.kind == sampling.INTEGERS.value:
        value = f"::integers(rng, {place}, {numbers[0]}, {numbers[1]})"
    elif draw.kind == sampling.LOG_UNIFORM.value:
        value = clipped(f"exp2f({uniform()})")
    elif draw.kind == sampling.NORMAL.value:
        value = clipped(f"::normal(rng, {place}) * {_float(numbers[1])} + {_float(numbers[0])}")
    else:
        values = [_float(number) if isinstance(number, float) else str(number).lower() for number in numbers]
        rest = "".join(f"place == {i} ? {text} : " for i, text in enumerate(values[1:], 1))
        value = f"[&](int place) {{ return {rest}{values[0]}; }}(::integers(rng, {place}, 0, {len(values)}))"
    return f"batch.param_{name}[row] = {value};"


def _float(value: float) -> str:
    if np.isinf(value):
        return "-operant::infinity()" if value < 0 else "operant::infinity()"
    return f"{float(np.float32(value))!r}f"


def _chosen(values: Iterable[Any], last: str) -> str:
    """Return an expression for the value number i."""
    values = list(values)
    if len(set(values)) == 1:
        return str(values[0])
    return "".join(f"i == {i} ? {value} : " for i, value in enumerate(values)) + last


_TABLES = """__device__ __forceinline__ Tables tables_of(const Batch& batch, int64_t row) {{ return Tables{{{made}}}; }}
#define OPERANT_TABLES(batch, row) , operant::tables_of(batch, row)
#define OPERANT_TABLES_TYPE , *(Tables*)0"""
_IS_LEGAL = "::is_legal(state, choice, params_of(batch, row) OPERANT_TABLES(batch, row))"
_NO_TABLES = """#define OPERANT_TABLES(batch, row)
#define OPERANT_TABLES_TYPE"""
_DESCRIPTION = """namespace operant {{
struct Batch {{
{batch}}};
struct Call {{
{call}}};
struct Draw {{
{draw}}};
__device__ __forceinline__ State load(const Batch& batch, int64_t row) {{
    State state;
{loads}    return state;
}}
__device__ __forceinline__ void store(const Batch& batch, int64_t row, const State& state) {{
{stores}}}
constexpr int OBSERVATION_SIZE = {observation_size}, ACTION_SIZE = {action_size}, NUM_CHOICES = {num_choices};
constexpr bool IS_DISCRETE = {is_discrete}, HAS_MASK = {has_mask}, HAS_METRICS = {has_metrics};
__device__ __forceinline__ Params params_of(const Batch& batch, int64_t row) {{
    Params params{made};
{params}    return params;
}}
__device__ __forceinline__ void draw_params(const Batch& batch, int64_t row, const Rng& rng) {{
{draws}}}
{tables}
__device__ __forceinline__ bool is_legal(const Batch& batch, int64_t row, const State& state, int choice) {{
    return {is_legal};
}}
__device__ __forceinline__ void begin_metrics(const Batch& batch, int64_t row) {{
{begin}}}
__device__ __forceinline__ void measure(const Batch& batch, int64_t row, const Outcome& outcome) {{
{measure}}}
__device__ __forceinline__ void log_metrics(const Batch& batch, int64_t row) {{
{log}}}
__device__ __forceinline__ int32_t action_low(int i) {{ return {low}; }}
__device__ __forceinline__ int32_t action_high(int i) {{ return {high}; }}
__device__ __forceinline__ int32_t first_choice(int i) {{ return {first}; }}
__device__ __forceinline__ float box_low(int i) {{ return {box_low}; }}
__device__ __forceinline__ float box_high(int i) {{ return {box_high}; }}
__device__ __forceinline__ float box_center(int i) {{ return {box_center}; }}
__device__ __forceinline__ float box_radius(int i) {{ return {box_radius}; }}
__device__ __forceinline__ {kind} component(const Action& action, int i) {{ return {component}; }}
__device__ __forceinline__ void set_component(Action& action, int i, {kind} value) {{ {component} = value; }}
}}  // namespace operant"""


@functools.cache
def _included(name: str) -> str:
    """Return a file of the library."""
    text = (_FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "\n")
    return f"{_line(1, f'operant_gpu/kernels/cuda/{name}')}\n{text}"


def _line(number: int, name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'#line {number} "{escaped}"'


def _beginning(messages: str) -> str:
    lines = messages.splitlines()
    more = [f"... and {len(lines) - _MOST_LINES} more lines"] if len(lines) > _MOST_LINES else []
    return "\n".join(lines[:_MOST_LINES] + more)


def explained(environment: CudaEnvironment, known: Known, messages: str) -> InvalidConfig:
    """Return the error for an author's file that does not compile, from the compiler's messages."""
    expected, shown = "\n".join(signatures(environment).values()), _beginning(messages.strip())
    if names := in_memory(known.params):
        are = "is" if len(names) == 1 else "are"
        shown += f"\n\n{', '.join(names)} {are} in memory: what is read while the file compiles must be a number"
    listing = f"{shown}\n\nexpected the functions\n{expected}\nover\n{structures(environment, known)}"
    return InvalidConfig("source", f"{environment.source} does not compile:", listing)
