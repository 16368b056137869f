"""The result of `env_throughput.py` as a Markdown page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from page import header, table

Report = dict[str, Any]


def write_page(report: Report, path: Path) -> str:
    """Write the page beside the JSON file; return the summary."""
    path.with_suffix(".md").write_text(page_of(report))
    return summary_of(report)


def summary_of(report: Report) -> str:
    """Return millions of steps a second, a row for each contender and a column for each size."""
    rates: dict[str, dict[str, str]] = {}
    for size, rows in report["sizes"].items():
        for row in rows:
            rates.setdefault(row["contender"], {})[size] = f"{row['per_second'] / 1e6:,.3g}"
    rows = [(name, *(found.get(size, "-") for size in report["sizes"])) for name, found in rates.items()]
    return table((f"{report['env']}, M steps/s", *(f"{int(size):,}" for size in report["sizes"])), rows)


def page_of(report: Report) -> str:
    """Return all tables as Markdown."""
    sections = [
        header("Environment steps per second", report),
        summary_of(report),
        f"A copy moves {report['copy_bytes_per_second'] / 1e9:.1f} GB/s (read and written), a matrix product does "
        f"{report['matrix_flop_per_second'] / 1e12:.2f} TFLOP/s.",
        *(size_section(report, report["env"], int(size), rows) for size, rows in report["sizes"].items()),
        "## Every environment",
        environments_table(report),
        f"## What an output costs: {report['env']}, {report['one_size']:,} environments, random actions",
        outputs_table(report),
        "## The first call",
        first_call_table(report),
    ]
    return "\n\n".join(sections) + "\n"


def size_section(report: Report, env: str, num_envs: int, rows: list[dict[str, Any]]) -> str:
    """Return one size as a heading and a table."""
    peer = next((row["per_second"] for row in rows if row["contender"] == "step, gymnasium vector"), None)
    headings = ("contender", "M steps/s", "spread", "us a call", "of copy", "of product", "x gymnasium vector")
    cells = [
        (
            row["contender"],
            f"{row['per_second'] / 1e6:,.3f}",
            f"{row['slowest'] / 1e6:,.3f}-{row['fastest'] / 1e6:,.3f}",
            f"{row['seconds_per_call'] * 1e6:,.1f}",
            share(row, "bytes_per_call", report["copy_bytes_per_second"]),
            share(row, "flop_per_call", report["matrix_flop_per_second"]),
            f"{row['per_second'] / peer:.2f}" if peer else "-",
        )
        for row in rows
    ]
    return f"## {env}, {num_envs:,} environments\n\n{table(headings, cells)}"


def share(row: dict[str, Any], cost: str, limit: float) -> str:
    """Return what part of the device's limit a contender's count comes to."""
    return f"{row[cost] / row['seconds_per_call'] / limit:.1%}" if cost in row else "-"


def environments_table(report: Report) -> str:
    """Return the fastest steps of each environment, on each backend."""
    names = ("step, ", "rollout random, ", "rollout given, ")
    backends = [
        backend
        for backend in ("numpy", "numba", "triton")
        if any(row["contender"] == f"step, {backend}" for row in next(iter(report["environments"].values())))
    ]
    columns = [f"{name}{backend}" for name in names for backend in backends]
    cells = []
    for env, rows in report["environments"].items():
        rates = {row["contender"]: row["per_second"] for row in rows}
        peer = rates.get("step, gymnasium vector")
        last = [f"{rates[column] / 1e6:,.1f}" for column in columns]
        compiled = f"{rates[f'step, {backends[-1]}'] / rates['step, numpy']:.1f}"
        ratio = f"{rates[f'rollout random, {backends[-1]}'] / rates['rollout random, numpy']:.1f}"
        operations = str(report["operations_per_step"][env])
        cells.append((env, operations, *last, compiled, ratio, f"{peer / 1e6:.1f}" if peer else "-"))
    headings = ("M steps/s", "operations", *columns, "step x numpy", "rollout x numpy", "gymnasium vector")
    return f"{report['one_size']:,} of each.\n\n{table(headings, cells)}"


def outputs_table(report: Report) -> str:
    """Return what each output of a rollout adds to it."""
    base = report["outputs"][0]
    cells = [
        (
            row["contender"],
            f"{row['per_second'] / 1e6:,.1f}",
            f"{1e12 / row['per_second'] - 1e12 / base['per_second']:,.0f}",
            share(row, "bytes_per_call", report["copy_bytes_per_second"]),
        )
        for row in report["outputs"]
    ]
    return table(("stored", "M steps/s", "ps a step more", "of copy"), cells)


def first_call_table(report: Report) -> str:
    """Return the seconds of a new process, by stage."""
    stages = tuple(report["first_calls"][0]["seconds"])
    cells = [
        (row["backend"], row["caches"], *(f"{row['seconds'][stage]:.2f}" for stage in stages))
        for row in report["first_calls"]
    ]
    return table(("backend", "seconds", *stages), cells)
