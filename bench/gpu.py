"""Show in seven minutes what a GPU makes of this library: is it right, and how fast is it?

    python bench/gpu.py [--stages c,d] [--out build/gpu] [--cache build/gpu-cache]
    python bench/gpu.py --precompile build/gpu-cache    without a GPU: compile beforehand what a run will launch
    python bench/gpu.py --rehearse                      without a GPU: the same program, small, on stand-ins
    python bench/gpu.py --pages build/gpu/results.jsonl turn results into bench/results/ and docs/performance.md

Stages are processes of their own, the most valuable first. Each has a time limit and runs whatever became of the one
before. Every result is a line of OUT/results.jsonl as soon as it is there, every output goes to OUT/log.txt, and the
table grows by a line at a time. Both files are added to. The exit status is 0 if every stage got through; what cannot
be had on a machine is "skipped", and does not count against it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gpu_cache
from gpu_rows import BAD, FAILED, HEADINGS, LEFT_OUT, NOTE, OK, RESULTS, RUN, SKIPPED, STAND_IN, Row, read, write

ROOT = Path(__file__).parents[1]
# A stage that would have less is left out.
LEAST_SECONDS = 5.0
# Between two looks at what a stage has written.
GLANCE = 0.1


@dataclass(frozen=True)
class Stage:
    """A part of the run.

    Attributes:
        letter: What --stages calls it.
        title: What it does.
        seconds: When it is stopped.
        command: What to run; by default `gpu_stages.py` with the letter.
    """

    letter: str
    title: str
    seconds: float
    command: tuple[str, ...] = ()


STAGES = (
    Stage("a", "the machine and its limits", 30),
    Stage("b", "operant-gpu doctor --verify", 60),
    Stage("c", "speed of environments", 50),
    Stage("d", "speed of training", 80),
    Stage("e", "beside the PPO in JAX", 45),
    Stage("h", "the width where fusion stops paying", 40),
    Stage("i", "two decisions", 40),
    Stage("f", "tests/gpu", 240),
    Stage("g", "compute-sanitizer", 60),
)


class Run:
    """One run: its files, its clock and its table.

    Args:
        out: Folder for results and log, which go on where they end.
        seconds: For all stages together.
        mode: "run", "rehearse" or "precompile".
        cache: Folder of kernels that were compiled beforehand, if there is one.
    """

    def __init__(self, out: Path, seconds: float, mode: str = "run", cache: Path | None = None) -> None:
        # Stages have another working directory.
        out = out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        self.results, self.log = out / "results.jsonl", out / "log.txt"
        self._mode, self._cache, self._end = mode, cache, time.monotonic() + seconds
        for path in (self.results, self.log):
            with path.open("ab") as file:
                # The run before may have been killed within a line.
                file.write(b"\n" if file.tell() else b"")
        self._begin = self._shown = self.results.stat().st_size
        if cache is not None:
            # Only here: a run without one needs no Triton.
            from operant_gpu.backends.triton.ahead import settle

            settle(cache / "triton")

    def __call__(self, stages: tuple[Stage, ...]) -> int:
        """Run the stages; return the exit status."""
        print(HEADINGS, flush=True)
        about = {"command": command_line(), "mode": self._mode, "host": platform.node()}
        about |= {"date": datetime.now(timezone.utc).isoformat(), "stages": "".join(stage.letter for stage in stages)}
        self._write(Row("", "the run", NOTE, data=about))
        if self._cache is not None:
            self._write(Row("", "compiled beforehand", NOTE, gpu_cache.contents(self._cache)))
        states, status = list[str](), 0
        try:
            for stage in stages:
                states.append(self._run(stage))
        except Stopped as stopped:
            status, words = 128 + stopped.number, f"the run was ended by {signal.Signals(stopped.number).name}"
            for stage in stages[len(states) :]:
                states.append(LEFT_OUT)
                self._write(Row(stage.letter, stage.title, LEFT_OUT, words, data={"whole": True}))
        self._write(Row("", "kernels", NOTE, counted(self._all_rows())))
        tally = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
        print(f"stages: {tally}\nresults: {self.results}\nlog: {self.log}", flush=True)
        return status or int(any(state in BAD for state in states))

    def _run(self, stage: Stage) -> str:
        """Run a stage to its end or its limit; return its state."""
        limit = min(stage.seconds, self._end - time.monotonic())
        if limit < min(LEAST_SECONDS, stage.seconds):
            self._write(Row(stage.letter, stage.title, LEFT_OUT, "no time was left for it", data={"whole": True}))
            return LEFT_OUT
        before, started = len(self._all_rows()), time.monotonic()
        status = self._process(stage, started + limit)
        own = self._all_rows()[before:]
        state, figure = outcome(own, status, limit)
        if any(row.compiled or row.cached for row in own):
            figure += "; " + counted(own)
        seconds = time.monotonic() - started
        self._write(Row(stage.letter, stage.title, state, figure, seconds, data={"whole": True, "status": status}))
        return state

    def _process(self, stage: Stage, end: float) -> int | None:
        """Run the stage's process; return its exit status, None if it was stopped at its limit."""
        command = stage.command or (sys.executable, str(ROOT / "bench" / "gpu_stages.py"), stage.letter, self._mode)
        with self.log.open("ab") as log:
            log.write(f"\n=== {stage.letter}: {stage.title}: {shlex.join(command)}\n".encode())
            log.flush()
            # A group of its own, so that at its limit what it started ends with it.
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env=self._environment(),
                start_new_session=True,
            )  # fmt: skip
        try:
            while process.poll() is None and time.monotonic() < end:
                time.sleep(GLANCE)
                self._show()
            return process.poll()
        finally:
            kill_group(process)
            self._show()

    def _environment(self) -> dict[str, str]:
        folders = [ROOT, ROOT / "tests" / "support", ROOT / "bench"]
        path = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        variables |= {RESULTS: str(self.results), RUN: str(os.getpid())}
        if self._cache is not None:
            variables |= gpu_cache.variables(self._cache, self._mode == "precompile")
        elif self._mode == "rehearse":
            # The executor's kernels have no binaries: nothing else must find them.
            variables["TRITON_CACHE_DIR"] = str(self.log.parent / "triton")
        return {**os.environ, **variables}

    def _write(self, row: Row) -> None:
        write(row, self.results)
        self._show()

    def _all_rows(self) -> list[Row]:
        return read(self._written(self._begin).splitlines())

    def _show(self) -> None:
        """Print the rows that are new in the file."""
        text = self._written(self._shown)
        whole = text[: text.rfind(b"\n") + 1]
        self._shown += len(whole)
        for row in read(whole.splitlines()):
            if not row.quiet and row.what != "the run":
                print(row.line(), flush=True)

    def _written(self, place: int) -> bytes:
        """Return what is in the file from a place on."""
        with self.results.open("rb") as file:
            file.seek(place)
            return file.read()


def counted(rows: list[Row]) -> str:
    """Return how many kernels were compiled in these rows, and how many came from the cache."""
    return f"{sum(row.compiled for row in rows)} compiled, {sum(row.cached for row in rows)} cached"


def outcome(rows: list[Row], status: int | None, limit: float) -> tuple[str, str]:
    """Return the state of a stage, and in words how it ended."""
    counts = Counter(row.state for row in rows if row.state != NOTE)
    tally = ", ".join(f"{number} {state}" for state, number in counts.items())
    if status is None:
        return FAILED, f"stopped at its limit of {limit:.0f} s; {tally or 'no result'}"
    if status < 0:
        return FAILED, f"killed by {signal.Signals(-status).name}; {tally or 'no result'}"
    if status or counts[FAILED]:
        return FAILED, f"{tally or 'no result'}; exit status {status}"
    if not counts:
        return FAILED, "it ended without a result"
    state = next(state for state in (OK, STAND_IN, SKIPPED) if counts[state])
    return state, tally


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def command_line() -> str:
    """Return how this program was called."""
    return shlex.join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]])


def chosen(letters: str) -> tuple[Stage, ...]:
    """Return the stages of these letters, in the order of the run."""
    wanted = {letter.strip() for letter in letters.split(",") if letter.strip()}
    unknown = wanted - {stage.letter for stage in STAGES}
    if unknown or not wanted:
        known = ", ".join(f"{stage.letter} ({stage.title})" for stage in STAGES)
        raise argparse.ArgumentTypeError(f"expected letters such as c,d, got {letters!r}: there are {known}")
    return tuple(stage for stage in STAGES if stage.letter in wanted)


def folder(name: str) -> Path:
    """Return a folder that is there."""
    if not Path(name).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder that --precompile made, got {name!r}")
    return Path(name)


class Stopped(BaseException):
    """A signal that ends the run."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop(number: int, _: Any) -> None:
    """End the stage under way; the run then says so."""
    raise Stopped(number)


def main(arguments: list[str]) -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ",".join(stage.letter for stage in STAGES)
    parser.add_argument("--stages", type=chosen, default=every, help="such as c,d")
    parser.add_argument("--out", type=Path, help="folder for results.jsonl and log.txt (build/gpu)")
    parser.add_argument("--seconds", type=float, default=420.0, help="for all stages together (%(default)s)")
    parser.add_argument("--cache", type=folder, help="folder that --precompile made (build/gpu-cache, if it is there)")
    parser.add_argument("--rehearse", action="store_true", help="run it small, without a GPU")
    parser.add_argument("--precompile", type=Path, metavar="DIR", help="compile for sm_90 into this folder")
    parser.add_argument("--pages", type=Path, metavar="FILE", help="turn this results file into pages")
    given = parser.parse_args(arguments)
    if given.pages is not None:
        # Only here: it needs what the stages do not.
        import gpu_page

        return gpu_page.write_pages(given.pages)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        return run(given)
    except OSError as error:
        raise SystemExit(f"expected folders that can be written: {error}") from error


def run(given: argparse.Namespace) -> int:
    """Run stages, rehearse them, or compile what they launch; return the exit status."""
    build = ROOT / "build"
    if given.precompile is not None:
        given.precompile.mkdir(parents=True, exist_ok=True)
        compiling = Run(given.out or build / "gpu-precompile", 24 * 3600.0, "precompile", given.precompile)
        status = compiling(tuple(Stage(one.letter, one.title, 3600) for one in given.stages))
        gpu_cache.strip(given.precompile)
        print(f"{given.precompile}: {gpu_cache.contents(given.precompile)}")
        return status
    if given.rehearse:
        # No limits of a GPU's: what takes a millisecond there takes seconds here.
        rehearsal = Run(given.out or build / "gpu-rehearsal", 24 * 3600.0, "rehearse")
        return rehearsal(tuple(Stage(one.letter, one.title, 600) for one in given.stages))
    usual = build / "gpu-cache"
    cache = given.cache or (usual if usual.is_dir() else None)
    return Run(given.out or build / "gpu", given.seconds, cache=cache)(given.stages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
