"""That numbers which are not finite are reported with the place where they were planted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

import operant_gpu
from operant_gpu.models import PPOConfig
from operant_gpu.models.policies.making import make_policy
from operant_gpu.models.ppo.faults import Fault, FaultLog
from operant_gpu.models.ppo.rollout import Rollout, collect

STEPS, NUM_ENVS = 6, 4
PARAMETERS = ["network.actor.weight", "network.actor.bias"]
BAD = [math.nan, math.inf, -math.inf]

COLUMNS = {
    "obs": "observations",
    "final_obs": "observations",
    "reward": "rewards",
    "log_prob": "log-probabilities of actions",
    "value": "values",
}


@pytest.fixture
def rollout() -> Rollout:
    """Steps of CartPole, all finite."""
    env = operant_gpu.make("CartPole-v1", NUM_ENVS, device="cpu")
    env.reset(seed=0)
    policy = make_policy(env.single_observation_space, env.single_action_space, PPOConfig(hidden_sizes=(8,)))
    rollout = Rollout(env, policy, STEPS)
    rollout.begin(env)
    collect(env, policy, rollout, Generator().manual_seed(0))
    return rollout


@pytest.fixture
def log() -> FaultLog:
    return FaultLog(PARAMETERS, NUM_ENVS, torch.device("cpu"))


def faults(log: FaultLog) -> list[Fault]:
    found = log.decode([log.columns.tolist()])
    assert bool(found) is bool(log.any)
    return found


def plant(rollout: Rollout, column: str, step: int, environment: int, bad: float = math.nan) -> None:
    tensor = getattr(rollout, column)
    # In one component of an observation.
    tensor[(step, environment, 2)[: tensor.dim()]] = bad


def inspect_step(log: FaultLog, losses: list[float] | None = None, norms: list[float] | None = None, number: int = 1):
    sound = torch.tensor(losses or [0.1, 0.2, 0.3]), torch.tensor(norms or [1.0, 2.0])
    return bool(log.inspect_step(*sound, number))


def test_nothing_is_reported_when_all_is_finite(log: FaultLog, rollout: Rollout) -> None:
    assert faults(log) == []
    for _ in range(3):
        log.inspect_rollout(rollout)
        assert all(inspect_step(log, number=number) for number in (1, 2, 3))
    assert faults(log) == []


@pytest.mark.parametrize("place", [(0, 0), (0, 3), (3, 1), (5, 3)])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("column", COLUMNS)
def test_what_was_collected_is_reported_with_its_place(
    log: FaultLog, rollout: Rollout, column: str, bad: float, place: tuple[int, int]
) -> None:
    plant(rollout, column, *place, bad)
    log.inspect_rollout(rollout)
    assert faults(log) == [Fault(COLUMNS[column], 0, 0, *place)]


def test_the_observation_after_the_last_step_is_seen_as_the_next_iterations_first(
    log: FaultLog, rollout: Rollout
) -> None:
    plant(rollout, "obs", STEPS, 2)
    log.inspect_rollout(rollout)
    assert faults(log) == []


def test_the_first_step_and_in_it_the_first_environment_is_reported(log: FaultLog, rollout: Rollout) -> None:
    for place in ((4, 0), (2, 3), (2, 1), (5, 0)):
        plant(rollout, "reward", *place)
    log.inspect_rollout(rollout)
    assert faults(log) == [Fault("rewards", 0, 0, 2, 1)]


def test_a_final_observation_comes_before_later_observations(log: FaultLog, rollout: Rollout) -> None:
    plant(rollout, "obs", 4, 0)
    plant(rollout, "final_obs", 3, 1)
    log.inspect_rollout(rollout)
    assert faults(log) == [Fault("observations", 0, 0, 3, 1)]


def test_the_first_iteration_wins_over_later_ones(log: FaultLog, rollout: Rollout) -> None:
    log.inspect_rollout(rollout)
    plant(rollout, "value", 4, 2)
    log.inspect_rollout(rollout)
    plant(rollout, "value", 0, 0)
    log.inspect_rollout(rollout)
    assert faults(log) == [Fault("values", 1, 0, 4, 2)]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("site", range(3))
def test_losses_are_named(log: FaultLog, rollout: Rollout, site: int, bad: float) -> None:
    log.inspect_rollout(rollout)
    losses = [0.1, 0.2, 0.3]
    losses[site] = bad
    assert inspect_step(log, number=1)
    assert not inspect_step(log, losses, number=2)
    name = ("policy loss", "value loss", "entropy")[site]
    assert faults(log) == [Fault(name, 0, 2, 0, 0)]
    assert str(faults(log)[0]) == f"{name} in gradient step 2 of iteration 1"


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("site", range(2))
def test_gradients_are_named_by_their_parameter(log: FaultLog, rollout: Rollout, site: int, bad: float) -> None:
    log.inspect_rollout(rollout)
    log.inspect_rollout(rollout)
    norms = [1.0, 2.0]
    norms[site] = bad
    assert not inspect_step(log, norms=norms, number=3)
    assert faults(log) == [Fault(f"gradient of {PARAMETERS[site]}", 1, 3, 0, 0)]
    assert str(faults(log)[0]) == f"gradient of {PARAMETERS[site]} in gradient step 3 of iteration 2"


def test_the_first_gradient_step_wins_over_later_ones(log: FaultLog, rollout: Rollout) -> None:
    log.inspect_rollout(rollout)
    inspect_step(log, losses=[math.nan, 0.2, 0.3], number=2)
    inspect_step(log, losses=[math.nan, 0.2, 0.3], number=3)
    log.inspect_rollout(rollout)
    inspect_step(log, losses=[math.nan, 0.2, 0.3], number=1)
    assert faults(log) == [Fault("policy loss", 0, 2, 0, 0)]


def test_after_a_fault_no_gradient_step_is_sound(log: FaultLog, rollout: Rollout) -> None:
    plant(rollout, "reward", 1, 1)
    log.inspect_rollout(rollout)
    assert not inspect_step(log)
    rollout.reward.zero_()
    log.inspect_rollout(rollout)
    assert not inspect_step(log)


def test_clear_forgets_everything_but_the_count_of_iterations(log: FaultLog, rollout: Rollout) -> None:
    plant(rollout, "reward", 1, 1)
    log.inspect_rollout(rollout)
    inspect_step(log, losses=[math.nan] * 3, norms=[math.nan] * 2)
    log.clear()
    assert faults(log) == []
    assert inspect_step(log)
    rollout.reward.zero_()
    plant(rollout, "reward", 5, 3)
    log.inspect_rollout(rollout)
    assert faults(log) == [Fault("rewards", 1, 0, 5, 3)]


def test_faults_come_in_the_order_of_time(log: FaultLog, rollout: Rollout) -> None:
    log.inspect_rollout(rollout)
    inspect_step(log, losses=[0.1, 0.2, math.nan], number=2)
    inspect_step(log, norms=[1.0, math.nan], number=1)
    plant(rollout, "obs", 4, 2)
    log.inspect_rollout(rollout)
    inspect_step(log, losses=[math.nan, 0.2, 0.3], number=1)
    assert [(fault.site, fault.iteration, fault.gradient_step) for fault in faults(log)] == [
        (f"gradient of {PARAMETERS[1]}", 0, 1),
        ("entropy", 0, 2),
        ("observations", 1, 0),
        ("policy loss", 1, 1),
    ]


def test_faults_of_one_step_come_in_the_order_of_the_datas_way(log: FaultLog, rollout: Rollout) -> None:
    for column in ("value", "log_prob", "reward", "obs"):
        plant(rollout, column, 3, 1)
    log.inspect_rollout(rollout)
    inspect_step(log, losses=[math.nan] * 3, norms=[math.nan] * 2)
    assert [fault.site for fault in faults(log)] == [
        "observations",
        "rewards",
        "log-probabilities of actions",
        "values",
        "policy loss",
        "value loss",
        "entropy",
        *(f"gradient of {name}" for name in PARAMETERS),
    ]


def test_faults_of_one_rollout_come_in_the_order_of_their_steps(log: FaultLog, rollout: Rollout) -> None:
    for step, column in ((4, "obs"), (1, "reward"), (3, "log_prob"), (2, "value")):
        plant(rollout, column, step, 0)
    log.inspect_rollout(rollout)
    assert [fault.step for fault in faults(log)] == [1, 2, 3, 4]


def test_a_fault_reads_as_a_place(log: FaultLog, rollout: Rollout) -> None:
    log.inspect_rollout(rollout)
    plant(rollout, "final_obs", 4, 2)
    log.inspect_rollout(rollout)
    assert str(faults(log)[0]) == "observations of environment 2 at step 4 of iteration 2"
