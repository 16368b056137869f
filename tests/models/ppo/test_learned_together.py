"""Two processes learn what one with all the environments does."""

from __future__ import annotations

from pathlib import Path

import learned_together as program
import pytest
import torch
from contract_envs import assert_same_tensors
from learned_together import CASES, FUSED, NUM_ENVS
from together import results, together

from operant_gpu.models import PPO, Processes, evaluate

ENGINES = [("eager", [*CASES]), ("fused", FUSED)]


@pytest.mark.parametrize(("engine", "names"), ENGINES)
def test_gradients_are_those_of_all_samples(engine: str, names: list[str]) -> None:
    differences = results(program.of_each, "gradient_difference", names, engine, False)[0]
    assert len(differences) == len(names)
    assert {name: one for name, one in differences.items() if not one <= 3e-6} == {}


def test_gradients_in_float64_are_those_of_all_samples() -> None:
    differences = results(program.of_each, "gradient_difference", [*CASES], "eager", True)[0]
    assert {name: one for name, one in differences.items() if not one <= 1e-12} == {}


def test_five_iterations_in_float64_are_those_of_one_process() -> None:
    differences = results(program.of_each, "double_difference", [*CASES])[0]
    assert {name: one for name, one in differences.items() if not one <= 1e-10} == {}


@pytest.mark.parametrize(("engine", "names"), ENGINES)
def test_processes_are_equal_to_the_bit_after_twenty_iterations(engine: str, names: list[str]) -> None:
    first, second = results(program.of_each, "train", names, engine, 20)
    of_time = {"seconds", "sps", "env_sps", "learner_sps"}
    for name in names:
        (one, metrics), (other, others_metrics) = first[name], second[name]
        assert all(map(torch.equal, one, other)), name
        assert {key for key, value in metrics.items() if value != others_metrics[key]} <= of_time
        taken = 20 * 2 * NUM_ENVS * program.STEPS
        assert metrics["timesteps"] == taken
        # Adam's count stands before the hyperparameters.
        steps, all_steps = one[-2], taken // (4 * program.STEPS if name == "gru" else 64)
        assert 20 <= steps < all_steps if name == "target_kl" else steps == all_steps


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("gru", "eager"),
        *(pytest.param(*one, marks=pytest.mark.thorough) for one in [("curious", "fused"), ("normalized", "eager")]),
    ],
)
def test_two_processes_go_on_as_if_they_had_not_stopped(tmp_path: Path, name: str, engine: str) -> None:
    path = str(tmp_path / "learner.pt")
    whole = results(program.train, name, engine, 6)
    results(program.begin, path, name, engine, 3, 6)
    for (expected, _), (found, _, _, lines) in zip(whole, results(program.go_on, path), strict=True):
        assert all(map(torch.equal, expected, found))
        assert lines == []


@pytest.mark.thorough
def test_two_processes_go_on_exactly_after_one_was_killed(tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoints")
    whole = results(program.train, "gaussian", "fused", 6)
    ended = together(program.begin_and_be_killed, folder, "gaussian", "fused", 6)
    assert "rank 1 does not answer" in ended[0].error
    steps = 3 * 2 * NUM_ENVS * program.STEPS
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == f"step-{steps:012d}.pt"
    for (expected, _), (found, _, _, lines) in zip(whole, results(program.go_on, folder), strict=True):
        assert all(map(torch.equal, expected, found))
        assert lines == []


@pytest.mark.parametrize("name", ["normalized", pytest.param("mlp", marks=pytest.mark.thorough)])
def test_other_numbers_of_processes_go_on_with_all_environments(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "learner.pt")
    results(program.begin, path, name, "fused", 3, 6)
    two = results(program.go_on, path, 1)
    ((_, one, batch_size, lines),) = results(program.go_on, path, 1, size=1)
    four = results(program.go_on, path, 1, size=4)
    assert batch_size == 2 * 64
    assert lines == [f"environments dealt out anew: {2 * NUM_ENVS}, of 2 processes before, to 1 now"]
    assert [rank[2] for rank in four] == [32] * 4
    # One more rollout of the same policy: with the same draws, by the environments' ids.
    for several in (two, four):
        size, every = 2 * NUM_ENVS // len(several), 0
        for rank, (_, state, _, _) in enumerate(several):
            own = slice(rank * size, (rank + 1) * size)
            assert state["first_env_id"] == rank * size
            for part in ("state", "columns"):
                assert_same_tensors(state[part], {key: column[own] for key, column in one[part].items()})
                every += len(one[part])
        assert every > 10


def test_one_process_goes_on_in_two(tmp_path: Path) -> None:
    path = str(tmp_path / "learner.pt")
    results(program.begin, path, "mlp", "fused", 3, 6, size=1)
    ((_, one, _, _),) = results(program.go_on, path, 1, size=1)
    two = results(program.go_on, path, 1)
    assert two[0][3] == [f"environments dealt out anew: {NUM_ENVS}, of 1 process before, to 2 now"]
    assert all(map(torch.equal, two[0][0], two[1][0]))
    for rank, (_, state, _, _) in enumerate(two):
        own = slice(rank * NUM_ENVS // 2, (rank + 1) * NUM_ENVS // 2)
        assert_same_tensors(state["state"], {key: column[own] for key, column in one["state"].items()})


def test_environments_that_cannot_be_dealt_out_evenly_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "learner.pt")
    results(program.begin, path, "mlp", "fused", 1, 2)
    for one in together(program.go_on, path, size=3):
        assert "num_envs: the 16 environments of the checkpoint cannot be dealt out evenly to 3 processes" in one.error


def test_processes_share_the_episodes_of_an_evaluation(tmp_path: Path) -> None:
    path = str(tmp_path / "learner.pt")
    results(program.begin, path, "mlp", "fused", 1, 2)
    (one, one_drawn), (other, other_drawn) = results(program.play, path)
    alone = evaluate(PPO.load(path, processes=Processes()), 9)
    assert (one == other).all()
    assert (one_drawn == other_drawn).all()
    assert (one == alone.returns).all()
    assert len(one_drawn) == 9
