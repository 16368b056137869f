"""Benchmarks work at the smallest sizes, and the pages in the repository are what its raw data says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from here import ROOT

from operant_gpu.models import PPOConfig
from operant_gpu.models.presets import LARGE_PRESETS

RESULTS, MACHINE = ROOT / "bench" / "results", "intel-r-xeon-r-processor"
WRITERS = {
    MACHINE: lambda bench, report: bench("env_page").page_of(report),
    f"games-{MACHINE}": lambda bench, report: bench("games_throughput").page_of(report),
    "randomization": lambda bench, report: bench("randomization").section(report),
    f"learning-games-{MACHINE}": lambda bench, report: bench("learning_games").page(report["runs"]),
}
PARTS = {
    "fused": ["rollout", "gradient steps", "advantages", "metrics and faults"],
    "eager": [
        *("environment steps", "policy acts", "advantages", "forward and losses", "backward"),
        *("gradient norms and Adam", "metrics and faults"),
    ],
}


@pytest.mark.parametrize("name", WRITERS)
def test_pages_are_what_the_raw_data_says(bench: Any, name: str) -> None:
    report = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == WRITERS[name](bench, report)


def test_the_page_of_results_is_what_the_raw_data_says(bench: Any) -> None:
    report = json.loads((RESULTS / f"learning-{MACHINE}.json").read_text())
    run, link = bench("learning_run").Run, f"../bench/results/learning-{MACHINE}.json"
    runs = {env: [run(**one) for one in entry["runs"]] for env, entry in report["environments"].items()}
    written = "\n\n".join(bench("learning_page").sections(report, runs, link)) + "\n"
    assert (ROOT / "docs" / "results.md").read_text() == written


def test_the_page_of_trainers_is_what_the_raw_data_says(bench: Any) -> None:
    adapters, report = bench("adapters"), json.loads((RESULTS / "adapters.json").read_text())
    assert adapters.PAGE.read_text() == adapters.page_of(report)
    assert all(run["solved"] for run in report["runs"])


def test_the_table_of_large_presets_is_what_the_raw_data_says(bench: Any) -> None:
    large, preset_of = bench("large_presets"), bench("learning_run").preset_of
    report = json.loads(large.DATA.read_text())
    assert f"{large.BEGIN}\n{large.table_of(report)}\n{large.END}" in large.PAGE.read_text()
    for env, entry in report["environments"].items():
        assert {run["outcome"] for run in entry["runs"]} == {"solved"}
        # As JSON has tuples.
        assert json.loads(json.dumps(preset_of(PPOConfig.for_env(env, size="large")))) == entry["preset"]
    assert list(report["environments"]) == list(LARGE_PRESETS)


@pytest.mark.parametrize("engine", PARTS)
def test_the_time_of_an_iteration_is_split(bench: Any, engine: str) -> None:
    ppo = bench("ppo_throughput")
    learner = ppo.learner_of(ppo.Settings(), 16, engine=engine)
    split = ppo.split(learner, iterations=1)
    assert list(split) == [*PARTS[engine], ppo.REST]
    assert min(split.values()) > 0


def test_a_job_runs_in_a_process(bench: Any, tmp_path: Path) -> None:
    runner, policy = bench("learning_run"), tmp_path / "policies" / "one.pt"
    run = runner.in_process(runner.Job(seed=1, goal=math.inf, cap=math.inf, steps=4096, episodes=2, policy=policy))
    assert (run.outcome, run.seed, run.timesteps, run.curve["timesteps"][-1]) == ("out of steps", 1, 4096, 4096)
    assert run.process_seconds > run.construction_seconds + run.seconds > run.seconds > 0
    assert run.evaluation > 1
    assert policy.exists()


def test_a_job_that_fails_says_why(bench: Any) -> None:
    runner = bench("learning_run")
    run = runner.in_process(runner.Job("CartPol-v1"))
    assert run.outcome == "failed"
    assert "did you mean 'CartPole-v1'" in run.error
