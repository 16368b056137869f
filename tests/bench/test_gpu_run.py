"""The program that makes a GPU's minutes count: whatever a stage does, the others run and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from here import ROOT

BENCH = ROOT / "bench"
RUN = {"mode": "run", "host": "example", "date": "2031-02-03T04:05:06+00:00", "command": "python bench/gpu.py"}
CARD = {"name": "Example 9000", "multiprocessors": 132, "bytes": 2**36, "driver": "1.2.3", "capability": "9.0"}
VERSIONS = {"machine": "Example 9000", "cores": 16, "versions": {"torch": "2.11.0", "triton": "3.6.0"}}


def stage(gpu: Any, letter: str, code: str, seconds: float = 20.0) -> Any:
    return gpu.Stage(letter, f"planted {letter}", seconds, (sys.executable, "-c", code))


def reporting(letter: str, state: str = "ok") -> str:
    """Return a program that writes one row."""
    return (
        "import os; from pathlib import Path; from gpu_rows import RESULTS, Row, write; "
        f"write(Row({letter!r}, 'a result of {letter}', {state!r}), Path(os.environ[RESULTS]))"
    )


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def ends_of(out: Path) -> dict[str, tuple[str, str]]:
    return {row["stage"]: (row["state"], row["figure"]) for row in rows_of(out) if row["data"].get("whole")}


def test_later_stages_run_whatever_the_ones_before_did(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = bench("gpu")
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    stages = (
        stage(gpu, "r", reporting("r") + "; raise ValueError('planted')"),
        stage(gpu, "h", f"{reporting('h')}; {child}; time.sleep(60)", seconds=1.0),
        stage(gpu, "k", reporting("k") + "; os.kill(os.getpid(), 9)"),
        stage(gpu, "n", "pass"),
        stage(gpu, "s", reporting("s", "skipped")),
        stage(gpu, "w", reporting("w", "failed")),
        stage(gpu, "f", reporting("f")),
    )
    started = time.monotonic()
    assert gpu.Run(tmp_path, 60.0)(stages) == 1
    # The second ended at its limit, and what it had started did with it.
    assert time.monotonic() - started < 15
    assert ends_of(tmp_path) == {
        "r": ("failed", "1 ok; exit status 1"),
        "h": ("failed", "stopped at its limit of 1 s; 1 ok"),
        "k": ("failed", "killed by SIGKILL; 1 ok"),
        "n": ("failed", "it ended without a result"),
        "s": ("skipped", "1 skipped"),
        "w": ("failed", "1 failed; exit status 0"),
        "f": ("ok", "1 ok"),
    }
    printed = capsys.readouterr().out
    assert [f"a result of {letter}" in printed for letter in "rhkswf"] == [True] * 6
    assert "planted r" in printed
    assert "stages: 5 failed, 1 skipped, 1 ok" in printed
    log = (tmp_path / "log.txt").read_text()
    assert "=== r: planted r" in log
    assert "ValueError: planted" in log


def test_what_is_skipped_does_not_count_against_a_machine(bench: Any, tmp_path: Path) -> None:
    gpu = bench("gpu")
    assert gpu.Run(tmp_path, 60.0)((stage(gpu, "s", reporting("s", "skipped")), stage(gpu, "f", reporting("f")))) == 0


def test_stages_without_time_are_left_out(bench: Any, tmp_path: Path) -> None:
    gpu = bench("gpu")
    hangs = stage(gpu, "h", "import time; time.sleep(60)")
    assert gpu.Run(tmp_path, 5.5)((hangs, stage(gpu, "f", reporting("f")))) == 1
    assert ends_of(tmp_path)["h"][1].startswith("stopped at its limit of ")
    assert ends_of(tmp_path)["f"] == ("left out", "no time was left for it")


def test_a_run_that_is_killed_leaves_what_was_done(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r}); import gpu; from pathlib import Path; "
        "stage = lambda letter, code: gpu.Stage(letter, letter, 30.0, (sys.executable, '-c', code)); "
        f"stages = stage('f', {reporting('f')!r}), stage('h', {reporting('h') + '; import time; time.sleep(5)'!r}); "
        f"gpu.Run(Path({str(tmp_path)!r}), 60.0)(stages)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        limit = time.monotonic() + 15
        while time.monotonic() < limit and "a result of h" not in (
            (tmp_path / "results.jsonl").read_text() if (tmp_path / "results.jsonl").exists() else ""
        ):
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert [row["what"] for row in rows_of(tmp_path)] == ["the run", "a result of f", "f", "a result of h"]


def test_a_line_that_was_cut_off_is_left_out(bench: Any) -> None:
    rows = bench("gpu_rows")
    whole = json.dumps({"stage": "a", "what": "copy", "state": "ok"})
    assert [row.what for row in rows.read([whole, whole[:20]])] == ["copy"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--stages", "x"], "expected letters such as c,d, got 'x': there are a (the machine"),
        (["--cache", "no-such-folder"], "expected a folder that --precompile made, got 'no-such-folder'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    kept = tmp_path / "results.jsonl"
    kept.write_text("kept\n")
    with pytest.raises(SystemExit) as refusal:
        bench("gpu").main(["--out", str(tmp_path), *arguments])
    assert refusal.value.code == 2
    assert told in capsys.readouterr().err
    assert kept.read_text() == "kept\n"


def test_a_folder_that_cannot_be_written_is_refused(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"expected folders that can be written: .*file"):
        bench("gpu").main(["--out", str(tmp_path / "file"), "--stages", "a"])


def test_runs_add_to_their_files_wherever_they_are_begun(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = bench("gpu")
    monkeypatch.chdir(tmp_path)
    assert gpu.Run(Path("here"), 60.0)((stage(gpu, "f", reporting("f")),)) == 0
    with (tmp_path / "here" / "results.jsonl").open("a") as file:
        file.write('{"stage": "cut')
    assert gpu.Run(Path("here"), 60.0)((stage(gpu, "g", reporting("g")),)) == 0
    rows = bench("gpu_rows").read((tmp_path / "here" / "results.jsonl").read_text().splitlines())
    assert [row.what for row in rows] == [
        "the run", "a result of f", "planted f", "kernels", "the run", "a result of g", "planted g", "kernels",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_ended_says_so(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r}); import gpu; "
        "gpu.STAGES = tuple(gpu.Stage(letter, letter, 60.0, (sys.executable, '-c', "
        f"{reporting('h') + '; import time; time.sleep(60)'!r})) for letter in 'hi'); "
        f"sys.exit(gpu.main(['--out', {str(tmp_path)!r}, '--stages', 'h,i']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    limit, results = time.monotonic() + 30, tmp_path / "results.jsonl"
    while time.monotonic() < limit and not (results.exists() and "a result of h" in results.read_text()):
        time.sleep(0.05)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, "")
    assert ends_of(tmp_path) == dict.fromkeys("hi", ("left out", f"the run was ended by {number.name}"))
    assert f"stages: 2 left out\nresults: {results}" in printed


def test_a_stage_ends_with_its_run() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r}); import threading, time, gpu_stages; "
        "threading.Thread(target=gpu_stages.end_with, args=(int(sys.argv[1]),), daemon=True).start(); time.sleep(60)"
    )
    run = (
        "import os, subprocess, sys; null = subprocess.DEVNULL; "
        f"command = [sys.executable, '-c', {code!r}, str(os.getpid())]; "
        "print(subprocess.Popen(command, stdout=null, stderr=null, start_new_session=True).pid)"
    )
    number = int(subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=30).stdout)
    limit = time.monotonic() + 30
    while time.monotonic() < limit and running(number):
        time.sleep(0.1)
    assert not running(number)


def running(number: int) -> bool:
    status = Path(f"/proc/{number}/stat")
    return status.exists() and status.read_text().rsplit(") ", 1)[1][0] != "Z"


SANITIZED = "the program came to its end: fused\n========= "


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        (SANITIZED + "ERROR SUMMARY: 0 errors", 0, "ERROR SUMMARY: 0 errors"),
        (SANITIZED + "RACECHECK SUMMARY: 0 hazards displayed (0 errors)", 0, "RACECHECK SUMMARY: 0 hazards displayed"),
        ("========= Error: Device not supported", 1, "NotHere: refused: Error: Device not supported"),
        (SANITIZED + "Invalid __global__ read\n========= ERROR SUMMARY: 2 errors", 9, "RuntimeError: ERROR SUMMARY: 2"),
        ("ValueError: planted\n========= ERROR SUMMARY: 0 errors", 1, "RuntimeError: ERROR SUMMARY: 0 errors, exit"),
    ],
)
def test_what_the_sanitizer_says_is_understood(bench: Any, text: str, status: int, expected: str) -> None:
    try:
        said = bench("gpu_sanitized").verdict(text, status)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    assert said.startswith(expected)


PLANTED = """
import pytest
def test_right(): pass
def test_wrong(): assert 1 == 2, "planted"
def test_left_out(): pytest.skip("nothing here")
@pytest.fixture
def broken(): raise ValueError("planted too")
def test_unready(broken): pass
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "workers"])
def test_each_test_is_a_row_with_its_message(tmp_path: Path, workers: list[str]) -> None:
    (tmp_path / "test_planted.py").write_text(PLANTED)
    (tmp_path / "test_unreadable.py").write_text("import no_such_package")
    paths = os.pathsep.join([str(BENCH), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {"OPERANT_GPU_BENCH_RESULTS": str(tmp_path / "results.jsonl"), "OPERANT_GPU_BENCH_MODE": "run"}
    command = [sys.executable, "-m", "pytest", "-p", "gpu_pytest", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--continue-on-collection-errors", *workers]
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    subprocess.run([*command, str(tmp_path)], env=environment, cwd=tmp_path, capture_output=True, timeout=60)
    found = {row["what"].split("::")[-1]: (row["state"], row["figure"], row["quiet"]) for row in rows_of(tmp_path)}
    state, figure, quiet = found.pop("test_unreadable.py")
    assert (state, quiet) == ("failed", False)
    assert "no_such_package" in figure
    assert found == {
        "test_right": ("ok", "", True),
        "test_wrong": ("failed", "AssertionError: planted", False),
        "test_left_out": ("skipped", "Skipped: nothing here", True),
        "test_unready": ("failed", "ValueError: planted too", False),
    }


def line(stage: str, what: str, state: str = "ok", **more: Any) -> str:
    return json.dumps({"stage": stage, "what": what, "state": state, **more})


def speed(contender: str, **more: Any) -> dict[str, Any]:
    rates = {"per_second": 1.5e9, "slowest": 1.4e9, "fastest": 1.6e9, "seconds_per_call": 7e-6}
    return {"env": "CartPole-v1", "num_envs": 4096, "contender": contender, **rates, **more}


def learner(engine: str) -> dict[str, Any]:
    rates = {"steps_per_second": 1.25e8, "slowest": 1.2e8, "fastest": 1.3e8, "seconds_per_iteration": 0.0042}
    return {"engine": engine, "num_envs": 16_384, "batch_size": 65_536, **rates}


def turns(**more: Any) -> dict[str, Any]:
    return {"env": "CartPole-v1", "num_envs": 4096, **more}


def ways(contender: str, per_second: float = 1e8) -> dict[str, Any]:
    return {"contender": contender, "per_second": per_second}


STEPPED = [ways("step"), ways("rollout")]


def made_up_results() -> list[str]:
    limits = {"copy_bytes_per_second": 3e12, "matrix_flop_per_second": 4e14, "float32_flop_per_second": 5e13}
    return [
        line("", "the run", "note", data=RUN),
        line("a", "versions", data=VERSIONS),
        line("a", "card", data=CARD),
        line("a", "copy, matrix products", data={"limits": limits}),
        line("a", "launch of an empty kernel", data={"seconds": 4.5e-6, "host_seconds": 4e-6}),
        line("a", "the machine and its limits", data={"whole": True}, figure="4 ok"),
        line("c", "CartPole", data=speed("step, triton", shares={"copy": 0.5})),
        line("d", "trains", data=learner("fused")),
        line("d", "graph", "failed", figure="BackendError: a | in its words"),
        line("d", "where", data={"engine": "fused", **learner("fused"), "split": {"rollout": 1e-3, "rest": 3e-3}}),
        line("d", "solves", data={"env": "CartPole-v1", "engine": "fused", "runs": [{}], "seconds": 0.5, "solved": 1}),
        line("e", "JAX", data={"rows": [learner("jax on gpu")]}),
        line("h", "fused", "skipped", figure="up to 128 units"),
        line("h", "64 x 64", data=turns(width=64, rows=[ways("graph", 2e8), ways("fused", 5e8)], ratio=2.5)),
        line("h", "256 x 256", data=turns(width=256, rows=[ways("graph", 1e8)])),
        line("i", "step kernel: Snake-v0", data=turns(rows=STEPPED, seconds=(4e-6, 5e-6), ratio=1.25)),
        line("i", "shuffle kernel", data=turns(rows=STEPPED, seconds=(1e-5, 6e-5), ratio=6.0, share=0.01)),
        line("f", "test_step_on_gpu.py::test_it", "failed", figure="AssertionError: 1 != 2"),
        line("f", "tests/gpu", "failed", data={"whole": True}, figure="700 ok, 1 failed; exit status 0"),
    ]


def test_two_ways_are_reported_with_what_each_takes(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing, reporter = bench("operant_gpu.cli.timing"), bench("gpu_reporter")
    monkeypatch.setenv("OPERANT_GPU_BENCH_RESULTS", str(tmp_path / "results.jsonl"))
    monkeypatch.setattr(reporter, "Kernels", lambda arch: SimpleNamespace(take=lambda: (0, 0)))
    taken = {"step": 16e-6, "rollout": 20e-6}
    monkeypatch.setattr(timing, "timed", lambda contender, calls: taken[contender.name])
    report, sizes = reporter.Reporter("i", "run"), SimpleNamespace(repeats=3, seconds=0.0)
    make = lambda: [timing.Contender(name, lambda _: None) for name in taken]  # noqa: E731
    bench("gpu_decisions").decide(report, sizes, "step kernel", make, 4, iteration=1e-4)
    (row,) = rows_of(tmp_path)
    assert row["figure"] == "step 4.00 us, rollout 5.00 us: 1.250 times as long, 1.00% of 0.10 ms more"
    assert row["data"]["ratio"] == pytest.approx(1.25)


def test_a_share_is_of_an_iteration_of_the_same_run(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, results = line("", "the run", "note", data=RUN), tmp_path / "results.jsonl"
    slower = {**learner("fused"), "seconds_per_iteration": 0.005}
    trained = [line("d", "trains", data=data) for data in (learner("fused"), slower, learner("graph"))]
    results.write_text("\n".join([begun, *trained]))
    monkeypatch.setenv("OPERANT_GPU_BENCH_RESULTS", str(results))
    iteration_of = bench("gpu_decisions").iteration_of
    assert iteration_of(16_384 * 32) == 0.0042
    assert iteration_of(4_096 * 32) is None
    results.write_text("\n".join([begun, *trained, begun]))
    assert iteration_of(16_384 * 32) is None


@pytest.fixture
def pages(tmp_path: Path) -> Any:
    """A results file, a folder and a page with something around the tables."""
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- gpu:begin -->\nNot measured on a GPU yet.\n<!-- gpu:end -->\nafter\n")
    return SimpleNamespace(results=tmp_path / "results.jsonl", folder=tmp_path, page=page)


def test_results_become_pages(bench: Any, pages: Any) -> None:
    pages.results.write_text("\n".join(made_up_results()) + "\n")
    assert bench("gpu_page").write_pages(pages.results, pages.folder, pages.page) == 0
    document = json.loads((pages.folder / "gpu-example-9000.json").read_text())
    assert document["card"] == CARD
    assert document["date"] == "2031-02-03"
    assert [row["what"] for row in document["stages"]["c"]] == ["CartPole"]
    text = pages.page.read_text()
    assert text.startswith("before\n<!-- gpu:begin -->\nThese figures are from one Example 9000")
    assert " with driver 1.2.3, on 2031-02-03, with " in text
    assert "The command was `python bench/gpu.py" in text
    assert text.endswith("\n<!-- gpu:end -->\nafter\n")
    assert "Not measured" not in text
    assert "| CartPole-v1, 4,096: step, triton | 1,500.0 | 1,400.0-1,600.0 | 7.0 | 50.0% | - | - |" in text
    assert "| fused, 16,384 x 32 | 65,536 | 125.000 | 120.000-130.000 | 4.20 | - |" in text
    assert "| rollout | 1.00 | 25% |" in text
    assert "| CartPole-v1, 4,096, 64 x 64 | 500.0 | 200.0 | 2.50 |" in text
    assert "| CartPole-v1, 4,096, 256 x 256 | - | 100.0 | - |" in text
    assert "| step kernel: Snake-v0 | 4.00 | rollout 5.00 | 1.250 | - |" in text
    assert "| shuffle kernel | 10.00 | rollout 60.00 | 6.000 | 1.00% |" in text
    # What went wrong is told beside what went well.
    assert "| graph | failed: BackendError: a \\| in its words |" in text
    assert "| test_step_on_gpu.py::test_it | failed: AssertionError: 1 != 2 |" in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mode": "rehearse"}, "these are not a GPU's figures (modes rehearse; 0 rows of stand-ins)"),
        ({"mode": "precompile"}, "these are not a GPU's figures"),
        ({"stand-in": True}, "these are not a GPU's figures (modes run; 1 rows of stand-ins)"),
        ({"without": "card"}, "no row card of example, without which nobody knows what was measured"),
        ({"without": "the run"}, "results.jsonl:1: expected a row called the run, got 'versions'"),
        ({"instead": ""}, "expected rows of gpu.py, got none"),
        ({"instead": "damaged"}, "results.jsonl:3: expected a row of gpu.py, got 'damaged'"),
        ({"instead": '{"a": 1}'}, "results.jsonl:3: expected a row of gpu.py"),
        ({"instead": line("a", "versions", data={"versions": 3})}, "expected results of this version of gpu.py, got"),
        ({"instead": line("", "the run", "note", data=RUN | {"host": "other"})}, "no row versions of other"),
        ({"instead": line("a", "card", data=CARD | {"name": "Another"})}, "several cards (Another, Example 9000)"),
    ],
)
def test_what_is_no_measurement_of_a_gpu_is_refused(bench: Any, pages: Any, change: Any, told: str) -> None:
    lines = [text for text in made_up_results() if change.get("without") != json.loads(text)["what"]]
    if "mode" in change:
        lines[0] = line("", "the run", "note", data=RUN | change)
    if "instead" in change:
        lines = [*lines[:2], change["instead"], *lines[2:]] if change["instead"] else []
    if "stand-in" in change:
        lines.append(line("c", "a graph", "stand-in"))
    pages.results.write_text("\n".join(lines))
    before = pages.page.read_text()
    with pytest.raises(SystemExit) as refusal:
        bench("gpu_page").write_pages(pages.results, pages.folder, pages.page)
    assert told in str(refusal.value)
    assert pages.page.read_text() == before
    assert not list(pages.folder.glob("*.json"))


def test_pages_take_the_newest_of_each_stage_and_say_what_was_cut_off(bench: Any, pages: Any) -> None:
    again = [
        line("", "the run", "note", data=RUN | {"command": "again", "date": "2031-02-04T00:00:00+00:00"}),
        line("c", "CartPole", data=speed("step, <!-- gpu:end -->")),
        line("d", "speed of training", "left out", data={"whole": True}),
        line("g", "compute-sanitizer", "left out", data={"whole": True}, figure="no time was left for it"),
        '{"stage": "c", "what',
    ]
    pages.results.write_text("\n".join([*made_up_results(), '{"cut', *again]))
    assert bench("gpu_page").write_pages(pages.results, pages.folder, pages.page) == 0
    text = pages.page.read_text()
    assert "on 2031-02-04" in text
    assert "The command was `python bench/gpu.py; again`." in text
    # The first run's stage d, since the second did not come to it; the second's stage c, which did not end.
    assert "| fused, 16,384 x 32 | 65,536 | 125.000 | 120.000-130.000 | 4.20 | - |" in text
    assert text.count("CartPole-v1, 4,096: step, ") == 1
    assert "| c | failed: the run was cut off within this stage |" in text
    assert "| g: compute-sanitizer | left out: no time was left for it |" in text
    assert text.count("<!-- gpu:end -->") == 1
    assert bench("gpu_page").write_pages(pages.results, pages.folder, pages.page) == 0


@pytest.mark.parametrize("content", [None, b"\xff\x00"])
def test_what_is_no_results_file_is_refused(bench: Any, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "results.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"expected a results\.jsonl of gpu\.py"):
        bench("gpu_page").write_pages(path)


def test_the_page_of_this_repository_has_room_for_them(bench: Any) -> None:
    page = bench("gpu_page")
    text = page.DOCS.read_text()
    assert text.count(page.BEGIN) == text.count(page.END) == 1
    between = text.split(page.BEGIN)[1].split(page.END)[0]
    # Figures come from a results file, which is kept.
    assert "Not measured on a GPU yet" in between or "bench/results/" in between
