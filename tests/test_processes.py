"""Processes that train together: what they compute in common, and how all end in time, and say who did, if one does."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import processes_that_fail as program
import pytest
import torch
from together import Outcome, results, together

from operant_gpu import InvalidConfig
from operant_gpu.models import Processes
from operant_gpu.models.ppo.loop import difference_of, digest
from operant_gpu.processes import present

# Seconds that a training of two processes takes to begin here, on cores that others use too.
BEGINS = 25.0


@pytest.mark.parametrize(("numbers", "size"), [(1, 2), (1000, 2), (1000, 3), (2**20, 2)])
def test_means_are_the_same_bits_in_all_processes(numbers: int, size: int) -> None:
    found = results(program.average_in_rows, numbers, size, size=size)
    own = [torch.randn(numbers, generator=torch.Generator().manual_seed(rank)) for rank in range(size)]
    for mean, rows in found:
        assert torch.equal(rows, torch.stack(own))
        torch.testing.assert_close(mean, torch.stack(own).mean(0))
        assert torch.equal(mean, found[0][0])


def run_of(folder: Path) -> tuple[str, str, list[int]]:
    """Return how a run stands, why, and of which steps it has checkpoints."""
    description = json.loads((folder / "run.json").read_text())
    steps = sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("checkpoints/*.pt"))
    return description["state"], description["message"], steps


def outcomes(folder: Path, rank: int, what: str, limit: float, size: int = 2) -> list[Outcome]:
    return together(program.train, str(folder), rank, what, size=size, limit=BEGINS + limit)


# Those that are killed tell nobody: the others find out by their silence.
@pytest.mark.parametrize(
    ("what", "rank", "size"), [("kill", 0, 2), ("kill", 1, 2), pytest.param("exit", 1, 3, marks=pytest.mark.thorough)]
)
def test_a_process_that_dies_ends_all(tmp_path: Path, what: str, rank: int, size: int) -> None:
    ended = outcomes(tmp_path / "run", rank, what, 20.0, size)
    assert ended[rank].status == (-signal.SIGKILL if what == "kill" else 3)
    for other in {*range(size)} - {rank}:
        assert f"rank {rank} " in ended[other].error
        assert ended[other].error.startswith("ProcessError")
    if rank:
        state, message, steps = run_of(tmp_path / "run")
        assert (state, steps) == ("failed", [0])
        assert f"rank {rank} does not answer" in message


# Rank 0 keeps the store, without torchrun.
@pytest.mark.thorough
@pytest.mark.parametrize(("rank", "message"), [(1, "rank 1 does not answer"), (0, "rank 0 is gone, which kept")])
def test_a_process_that_is_frozen_ends_all(tmp_path: Path, rank: int, message: str) -> None:
    ended = outcomes(tmp_path / "run", rank, "freeze", 60.0)
    assert message in ended[1 - rank].error


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_of_a_callback_ends_all_with_a_checkpoint(tmp_path: Path, rank: int) -> None:
    ended = outcomes(tmp_path / "run", rank, "raise", 15.0)
    assert ended[rank].error == "LookupError: no such thing"
    assert ended[1 - rank].error == f"ProcessError: rank {rank} failed: LookupError: no such thing"
    state, message, steps = run_of(tmp_path / "run")
    assert (state, steps) == ("failed", [0, 1024])
    assert "no such thing" in message


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_within_an_iteration_ends_all(tmp_path: Path, rank: int) -> None:
    ended = outcomes(tmp_path / "run", rank, "break", 15.0)
    assert ended[rank].error == "MemoryError: nothing is left"
    assert ended[1 - rank].error == f"ProcessError: rank {rank} failed: MemoryError: nothing is left"
    # What is under way is not whole.
    assert run_of(tmp_path / "run")[2] == [0]


def test_what_is_not_finite_in_one_process_is_told_by_all_and_learned_by_none(tmp_path: Path) -> None:
    ended = outcomes(tmp_path / "run", 1, "spoil", 15.0)
    assert ended[0].error == ended[1].error
    assert "first observations of environment 11 (of rank 1) at step 0 of iteration 5" in ended[0].error


@pytest.mark.parametrize("engine", ["fused", "eager"])
def test_losses_that_are_not_finite_are_told_of_the_process_that_has_them(tmp_path: Path, engine: str) -> None:
    for one in together(program.train_with, str(tmp_path / "run"), 1, "overflow", engine, limit=BEGINS + 15.0):
        assert "first value loss in gradient step 1 (of rank 1) of iteration 5" in one.error


def test_a_bit_of_difference_is_found_at_the_next_reading(tmp_path: Path) -> None:
    for one in outcomes(tmp_path / "run", 1, "differ", 15.0):
        assert "after iteration 5 rank 1 learned other numbers than rank 0" in one.error


@pytest.mark.parametrize("what", ["terminate", "interrupt"])
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(tmp_path: Path, what: str) -> None:
    ended = outcomes(tmp_path / "run", 1, what, 20.0)
    assert ended[0].result == {"timesteps": 1024, "signal": None, "state": "stopped"}
    assert ended[1].status == -signal.SIGTERM if what == "terminate" else ended[1].error.startswith("KeyboardInterrupt")
    assert run_of(tmp_path / "run") == ("stopped", "", [0, 1024])


def test_a_callback_that_stops_one_process_stops_all(tmp_path: Path) -> None:
    for one in outcomes(tmp_path / "run", 1, "stop", 15.0):
        assert one.result["timesteps"] == 1024
    assert run_of(tmp_path / "run") == ("stopped", "", [0, 1024])


@pytest.mark.thorough
def test_a_slow_process_is_waited_for(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    for one in results(program.train_a_while, folder, 1, "rest", limit=BEGINS + 25.0):
        assert one["timesteps"] == 4096
    assert run_of(tmp_path / "run")[0] == "finished"


def test_the_log_says_who_is_waited_for() -> None:
    (waiting, error), (resting, _) = results(program.wait_for_one_that_rests, 1, 60.0)
    assert "rank 0 waits for rank 1, which lives and has not come yet" in waiting
    assert (error, [line for line in resting if "waits for rank 1" in line]) == ("", [])


@pytest.mark.thorough
def test_a_process_is_not_waited_for_for_ever() -> None:
    _, error = results(program.wait_for_one_that_rests, 1, 3.0)[0]
    assert re.fullmatch(
        r"rank 0 has waited \d+ s for rank 1, which lives and has not come yet: every process .*", error
    )


def test_a_call_that_one_process_makes_alone_is_refused(tmp_path: Path) -> None:
    ended = outcomes(tmp_path / "run", 1, "save alone", 15.0)
    assert any("every process has to make the same calls" in one.error for one in ended)
    assert all("save()" in one.error for one in ended)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gamma", 0.5, "InvalidConfig: gamma: rank 1 has 0.5, and rank 0 has 0.99: start all processes with the same"),
        ("hidden_sizes", (8,), "InvalidConfig: hidden_sizes: rank 1 has (8,), and rank 0 has (64, 64)"),
    ],
)
def test_other_settings_are_refused_at_the_start(name: str, value: object, message: str) -> None:
    for one in together(program.train_unlike, 1, name, value, limit=BEGINS + 15.0):
        assert one.error.startswith(message)


def test_other_tables_are_refused_at_the_start() -> None:
    for one in together(program.train_on_maps, "SF FG", "SH FG", limit=BEGINS + 15.0):
        assert one.error.startswith("InvalidConfig: tables and shared parameters: rank 1 has")


def test_some_processes_may_train_apart_before() -> None:
    assert results(program.train_in_a_part, size=3) == [384] * 3


def test_processes_may_join_each_other_twice() -> None:
    assert results(program.join_twice, joins=False) == [[512, 512]] * 2


def test_another_length_of_the_training_is_refused() -> None:
    for one in together(program.train_for, 1, 4096, limit=BEGINS + 15.0):
        assert one.error.startswith("InvalidConfig: target: rank 1 has 4096, and rank 0 has 8192")


def test_environments_get_ids_of_their_own() -> None:
    assert results(program.make_with_ids, 0, 0) == [0, 8]
    assert results(program.make_with_ids, 100, 108) == [100, 108]
    for one in together(program.make_with_ids, 0, 4):
        assert "first_env_id: the environments' ids begin at 0, 4, with 8 in each process" in one.error


def test_a_process_that_returns_while_others_train_ends_them() -> None:
    ended = together(program.leave_early, 1, limit=BEGINS + 30.0)
    assert ended[0].error.startswith("ProcessError: rank 1 left, and rank 0 still needs it: every process has")
    assert ended[1].error == ""


def test_a_process_that_fails_before_it_has_a_learner_ends_all() -> None:
    ended = together(program.begin_alone, 1, limit=BEGINS + 30.0)
    assert ended[0].error == "ProcessError: rank 1 failed: LookupError: no such thing"


def test_a_process_may_train_by_itself_within_a_group() -> None:
    assert results(program.alone_within) == [(1, 256), (1, 256)]


@pytest.mark.quick
def test_one_process_that_was_started_with_others_and_does_not_join_them_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.warns(RuntimeWarning, match=r"2 processes were started, and this one trains by itself: .*distributed"):
        assert present().size == 1


@pytest.mark.quick
def test_what_is_no_process_group_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"processes: expected a ProcessGroup of torch\.distributed, got 2"):
        present(2)  # type: ignore[arg-type]
    assert repr(Processes()) == "Processes(rank=0, size=1)"


@pytest.mark.quick
def test_digests_tell_each_bit_and_place() -> None:
    one = torch.arange(8.0)
    changed = one.clone()
    changed.view(torch.int32)[5] ^= 1
    swapped = one[[1, 0, 2, 3, 4, 5, 6, 7]]
    found = {digest([tensor]).item() for tensor in (one, changed, swapped, one.double(), one > 3)}
    assert len(found) == 5
    told = "rank 2 and rank 4 learned other numbers than the other processes"
    assert difference_of([3.0, 3.0, 4.0, 3.0, 5.0]) == told
    assert difference_of([3.0, 3.0]) == difference_of([]) == ""
