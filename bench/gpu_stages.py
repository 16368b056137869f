"""The stages of `gpu.py`, each a process: `python bench/gpu_stages.py LETTER [run|rehearse|precompile]`."""

from __future__ import annotations

import functools
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_decisions import decisions, fusion
from gpu_reporter import Reporter
from gpu_rows import FAILED, OK, RUN, SKIPPED, STAND_IN, Row
from gpu_speeds import SIZES, Sizes, beside_jax, environments, limits, training

ROOT = Path(__file__).parents[1]


def machine(report: Reporter, sizes: Sizes) -> None:
    """Tell what is here, and the limits that speeds are compared with."""
    import torch
    from machine import describe

    with report.item("versions") as entry:
        entry.data = describe() | {"platform": platform.platform()}
        entry.figure = ", ".join(f"{name} {version}" for name, version in entry.data["versions"].items())
    with report.item("card", stand_in=True) as entry:
        found = torch.cuda.get_device_properties(0)
        entry.data = {"name": found.name, "multiprocessors": found.multi_processor_count, "bytes": found.total_memory}
        entry.data |= {"capability": f"{found.major}.{found.minor}", "driver": driver_version()}
        entry.figure = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, driver {entry.data['driver']}"
    limits(report, sizes)
    launch_costs(report, sizes)


def driver_version() -> str:
    """Return the version of the driver, if it can be asked."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception as error:
        return f"not known ({type(error).__name__})"


def launch_costs(report: Reporter, sizes: Sizes) -> None:
    """Measure what it costs to launch nothing: from Python, and in graphs."""
    import torch

    from operant_gpu.cli.timing import Contender, race
    from operant_gpu.vector.graphs import captured

    number = sizes.launches
    with report.item("launch of an empty kernel") as entry:
        from gpu_empty import empty_kernel

        def launch(kernels: int = 1) -> None:
            for _ in range(kernels):
                empty_kernel[(1,)]()

        launch()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(number):
            launch()
        host = (time.perf_counter() - started) / number
        (row,) = race([Contender("launch", lambda _: launch(), torch.cuda.synchronize)], sizes.repeats, sizes.seconds)
        entry.data = {"host_seconds": host, "seconds": row["seconds_per_call"]}
        entry.figure = f"{host * 1e6:.1f} us of the host, {row['seconds_per_call'] * 1e6:.1f} us in a row"
    times = {}
    for kernels in (1, number):
        with report.item(f"replay of a graph of {kernels} empty kernels", stand_in=True) as entry:
            graph, _ = captured(functools.partial(launch, kernels))
            (row,) = race([replaying(graph)], sizes.repeats, sizes.seconds)
            times[kernels] = row["seconds_per_call"]
            entry.data = {"kernels": kernels, "seconds": times[kernels]}
            entry.figure = f"{times[kernels] * 1e6:.1f} us"
            if kernels > 1 and 1 in times:
                entry.data["seconds_per_kernel"] = (times[kernels] - times[1]) / (kernels - 1)
                entry.figure += f", {entry.data['seconds_per_kernel'] * 1e6:.2f} us a kernel more"


def replaying(graph: Any) -> Any:
    """Return the contender that replays a graph."""
    import torch

    from operant_gpu.cli.timing import Contender

    return Contender("replay", lambda _: graph.replay(), torch.cuda.synchronize)


def verification(report: Reporter, sizes: Sizes) -> None:
    """Report each check of `operant-gpu doctor --verify` as soon as it was made."""
    from operant_gpu.verification import examine, learning, stepping

    states = {"ok": OK if report.mode == "run" else STAND_IN, "skipped": SKIPPED}
    if report.mode != "run":
        # Few, and such that sizes and strides are divisible by 16 where they are in a run: kernels depend on that.
        stepping.NUM_ENVS, stepping.STEPS = 44, 5
        learning._ITERATIONS = 1
    for check in examine():
        print(*check, sep=" | ", flush=True)
        state = states.get(check.state, FAILED)
        report.add(Row(report.stage, check.name, state, check.text, check.seconds, check._asdict()))


def sanitizer(report: Reporter, sizes: Sizes) -> None:
    """Run steps, a rollout and an update under compute-sanitizer."""
    from gpu_sanitized import check, program

    if report.mode != "run":
        with report.item("the sanitizer's program, without it", stand_in=True):
            program()
        return
    for tool in ("memcheck", "racecheck"):
        with report.item(tool) as entry:
            entry.figure = check(tool)


def gpu_tests(report: Reporter, sizes: Sizes) -> None:
    """Run tests/gpu; the plugin `gpu_pytest` writes a row for each test."""
    from gpu_pytest import command, variables

    if report.mode == "precompile":
        from gpu_rehearsal import compile_in_cuda

        with report.item("environments in CUDA C++") as entry:
            entry.data = {"names": compile_in_cuda()}
    # The tests' rows are written by other processes.
    environment = {**os.environ, **variables(report.mode)}
    status = subprocess.run(command(report.mode), cwd=ROOT, env=environment, check=False).returncode
    # 1: some failed, of which there are rows; 5: none was there.
    if status not in (0, 1):
        report.add(Row(report.stage, "pytest", FAILED, f"exit status {status}: see the log"))


STAGES: dict[str, Callable[[Reporter, Sizes], None]] = {
    "a": machine,
    "b": verification,
    "c": environments,
    "d": training,
    "e": beside_jax,
    "f": gpu_tests,
    "g": sanitizer,
    "h": fusion,
    "i": decisions,
}


def end_with(parent: int) -> None:
    """End this process and all that it started once the run is gone, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


def main(letter: str, mode: str) -> None:
    """Run one stage."""
    threading.Thread(target=end_with, args=(int(os.environ[RUN]),), daemon=True).start()
    if mode != "run" and letter != "f":
        from gpu_rehearsal import install

        install(mode, executes=letter == "b")
    import torch

    report = Reporter(letter, mode)
    if mode == "run" and not torch.cuda.is_available():
        report.add(Row(letter, "the GPU", FAILED, f"torch {torch.__version__} sees none: gpu.py --rehearse needs none"))
        return
    STAGES[letter](report, SIZES[mode])


if __name__ == "__main__":
    main(*sys.argv[1:])
