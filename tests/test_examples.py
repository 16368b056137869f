"""The examples run, and a new environment stays as short as the guide says."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest
import torch
from here import ROOT

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.models import MLPPolicy

EXAMPLES = ROOT / "examples"
MAX_LINES = 45


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_custom_environment_trains() -> None:
    assert load("custom_environment").main(200_000) >= 0.9


def test_cartpole_from_nothing_to_solved(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("train_fast").main() >= 450
    printed = capsys.readouterr().out
    assert "engine: fused, since fused kernels" in printed
    assert "s  training, " in printed


# The page that shows the file in full runs it by steps.
@pytest.mark.parametrize("how", [pytest.param("steps", marks=pytest.mark.thorough), "rollout"])
def test_a_loop_of_ones_own_solves_cartpole(how: str) -> None:
    assert load("own_loop").main(how) >= 475


def test_a_loop_of_ones_own_stores_what_the_environments_did() -> None:
    """A rollout of the same actions stores the same; where the time limit or the loop's end cuts, values follow."""
    example = load("own_loop")
    envs = [operant_gpu.make("CartPole-v1", example.NUM_ENVS, device="cpu", max_episode_steps=10) for _ in range(2)]
    obs = [env.reset(seed=0)[0] for env in envs]
    agent, collect = example.by_steps(envs[0], obs[0])
    for _ in range(2):
        stored = collect()
        names = ["obs", "reward", "terminated", "truncated", "final_obs"]
        again = envs[1].rollout(example.NUM_STEPS, stored["policy_action"], out=names)
        assert all(torch.equal(stored[name], again[name]) for name in names)
        assert stored["truncated"].any()
        assert stored["terminated"].any()
        for t in range(example.NUM_STEPS):
            log_prob, _, value = agent.evaluate(again["obs"][t], stored["policy_action"][t])
            torch.testing.assert_close(stored["log_prob"][t], log_prob)
            torch.testing.assert_close(stored["value"][t], value)
            cut = again["truncated"][t] & ~again["terminated"][t]
            cut = ~again["terminated"][t] if t == example.NUM_STEPS - 1 else cut
            follows = torch.where(cut, agent(again["final_obs"][t])[1], torch.tensor(0.0))
            torch.testing.assert_close(stored["final_value"][t], follows)


def test_rows_that_only_reset_can_be_left_out_of_a_loop_of_ones_own() -> None:
    """What docs/own_loop.md keeps in NEXT_STEP mode are the rows of SAME_STEP, over iterations; their gains too."""
    example, gathered = load("own_loop"), {}
    for mode in ("SAME_STEP", "NEXT_STEP"):
        env = operant_gpu.make("CartPole-v1", example.NUM_ENVS, device="cpu", autoreset_mode=mode, max_episode_steps=20)
        env.reset(seed=0)
        _, collect = example.by_rollout(env, seed=0)
        had_ended = torch.zeros(example.NUM_ENVS, dtype=torch.bool)
        rows: list[list[torch.Tensor]] = [[] for _ in range(example.NUM_ENVS)]
        for _ in range(3):
            stored = collect()
            ended = stored["terminated"] | stored["truncated"]
            kept = torch.ones_like(ended) if mode == "SAME_STEP" else ~torch.cat([had_ended[None], ended[:-1]])
            had_ended = ended[-1].clone()
            assert not stored["reward"][~kept].any()
            gains = example.advantages(stored)
            # Gains of the last episode depend on where the iteration ends.
            gains = torch.where(ended.flip(0).cumsum(0).flip(0) > 0, gains, torch.nan)
            columns = torch.cat([stored["obs"], stored["policy_action"][..., None], gains[..., None]], -1)
            for index, own in enumerate(rows):
                own.append(columns[:, index][kept[:, index]])
        gathered[mode] = [torch.cat(own) for own in rows]
    for same, following in zip(*gathered.values(), strict=True):
        assert len(following) < len(same)
        both = same[: len(following)]
        assert torch.equal(following[:, :5], both[:, :5])
        are_known = (following[:, 5] + both[:, 5]).isfinite()
        assert are_known.any()
        torch.testing.assert_close(following[are_known, 5], both[are_known, 5])


def test_advantages_of_a_loop_of_ones_own_are_those_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("own_loop")
    monkeypatch.setattr(example, "GAMMA", 0.5)
    monkeypatch.setattr(example, "GAE_LAMBDA", 0.5)
    # The first environment is truncated in its second step, where 8 follows; the second terminates there.
    stored = {
        "reward": torch.ones(3, 2),
        "value": torch.tensor([[2.0, 2.0], [4.0, 4.0], [6.0, 6.0]]),
        "final_value": torch.tensor([[0.0, 0.0], [8.0, 0.0], [10.0, 10.0]]),
        "terminated": torch.tensor([[False, False], [False, True], [False, False]]),
        "truncated": torch.tensor([[False, False], [True, False], [False, False]]),
    }
    # Differences are 1 + 2 - 2 and 1 + 4 - 4, and 1 + 0 - 4 where it terminates; 1 + 5 - 6 in the last step.
    expected = torch.tensor([[1 + 0.25, 1 - 0.75], [1.0, -3.0], [0.0, 0.0]])
    assert torch.equal(example.advantages(stored), expected)


def test_a_game_in_cuda_trains() -> None:
    # A basket that stands still catches three fruits of ten, and loses after the third miss.
    assert load("cuda_environment").main(250_000) >= 6


def test_trading_earns_on_prices_that_it_has_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    # Whoever holds one unit all the time gains nothing but the drift.
    assert load("trading").main(150_000) >= 1.0
    assert "fees of a year" in capsys.readouterr().out


def test_a_policy_trained_in_winds_copes_with_one() -> None:
    returns = load("randomised_pendulum").main()
    plain, robust = returns["wind of 1 N m"]
    assert robust > -250
    assert robust > plain + 150
    # As well as a policy that was trained on this pendulum alone.
    assert returns["as designed"][1] > -200


def test_draws_of_an_episode_stay_and_those_of_a_step_change() -> None:
    example = load("randomised_pendulum")
    wide = {"wind_low": -2.0, "wind_high": -1.0, "sensor_noise": 0.1}
    env = example.RandomisedPendulum(1000, device="cpu", max_episode_steps=3, **wide)
    obs, _ = env.reset(seed=0)
    winds, errors = [], []
    for _ in range(4):
        winds.append(env.state.wind.clone())
        errors.append(env.state.error.clone())
        seen = env.state.theta + env.state.error
        torch.testing.assert_close(obs[:, :2], torch.stack([seen.cos(), seen.sin()], 1))
        obs, *_ = env.step(torch.zeros(1000, 1))
    assert torch.equal(winds[0], winds[2])
    assert not (winds[2] == winds[3]).any()
    assert -2 <= winds[0].min() < -1.9
    assert -1.1 < winds[0].max() <= -1
    assert not (errors[0] == errors[1]).any()
    assert abs(float(torch.stack(errors).std()) - 0.1) < 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"wind_low": 2.0, "wind_high": 1.0},
        {"m": "-1..1"},
        {"l": 0.0},
        {"sensor_noise": -0.1},
        {"motor_noise": -0.1},
    ],
)
def test_pendulums_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match=max(wrong)):
        load("randomised_pendulum").RandomisedPendulum(8, device="cpu", **wrong)


def test_planning_swings_the_pendulum_up() -> None:
    """Random torques earn about -1,200 in 200 steps; one swing up and standing still costs 120 to 400."""
    assert load("plan_with_rollouts").main(sequences=500, steps=100) > -450


def test_search_finds_twice_the_best_of_random_play(capsys: pytest.CaptureFixture[str]) -> None:
    found = load("search").main("Game2048-v0", 256, 400)
    printed = re.search(r"random play: mean return ([\d,.]+), best ([\d,]+)\n", capsys.readouterr().out)
    mean, highest = (float(number.replace(",", "")) for number in printed.groups())
    # Of 20,000 games the mean is 1,089.
    assert 1000 < mean < 1200
    assert highest > 2 * mean
    assert found > 2 * highest


def test_a_search_returns_the_state_with_the_highest_return_and_ends_with_the_last_row() -> None:
    """Rows of FrozenLake end in holes with nothing and at the goal with 1; those that go on have 0."""
    env = operant_gpu.make("FrozenLake-v1", 64, device="cpu", autoreset_mode="disabled")
    env.reset(seed=0)
    best = load("search").search(env, 200)
    assert best.clock["episode_return"].tolist() == [1.0]
    assert best.clock["ended"].all()
    assert (best.state["row"] * 4 + best.state["column"]).tolist() == [15]
    assert env.snapshot().clock["ended"].all()


def test_hard_starts_are_states_before_failures() -> None:
    """With the same policy and the same draws, those and no others fail within a chunk."""
    example = load("hard_starts")
    env, again = (operant_gpu.make("Bridge-v0", 512, device="cpu", corridor=3, bridge=2) for _ in range(2))
    env.reset(seed=0)
    policy, found = MLPPolicy(env.single_observation_space, env.single_action_space), 0
    for _ in range(4):
        before, rows = example.failures(env, policy)
        again.restore(before)
        reward, over = again.rollout(example.CHUNK, policy, out=["reward", "terminated"]).values()
        first = over.int().argmax(0), torch.arange(512)
        # Who gets across is paid for the last step too.
        fails = over[first] & (reward[first] < 0.01)
        assert torch.equal(fails.nonzero()[:, 0], rows)
        assert (over[first] & ~fails).any()
        found += len(rows)
    assert found > 200


def test_half_of_the_rows_begin_each_iteration_from_hard_starts(monkeypatch: Any) -> None:
    example, restored, restore = load("hard_starts"), [], operant_gpu.VecEnv.restore

    def noted(env: Any, snapshot: Any, indices: Any = None, *, new_streams: bool = False) -> None:
        restore(env, snapshot, indices, new_streams=new_streams)
        if new_streams:
            restored.append((env.num_envs, len(indices)))

    monkeypatch.setattr(operant_gpu.VecEnv, "restore", noted)
    example.train(0, hard=True, env_id="FrozenLake-v1", steps=20_000)
    # An iteration takes 2,048 steps and the scout's chunk 512: 8 of both are 20,480. Before the first is no episode.
    assert restored == [(example.LEARNERS, example.LEARNERS // 2)] * 7
    example.train(0, hard=False, env_id="FrozenLake-v1", steps=5_000)
    assert len(restored) == 7


def test_evaluation_counts_every_episode_once() -> None:
    example = load("policy_evaluation")
    returns = example.main(300, lambda metrics: metrics["timesteps"] >= 20_000)
    assert returns.shape == (300,)
    assert ((returns >= 8) & (returns <= 500)).all()
    policy = example.train(lambda metrics: metrics["timesteps"] >= 20_000)
    # What an environment does depends on its own streams alone: the same episodes in another batch.
    torch.testing.assert_close(example.episode_returns(policy, 20), returns[:20], rtol=0, atol=0)


def test_the_histogram_holds_every_value() -> None:
    lines = load("policy_evaluation").histogram(torch.tensor([0.0, 1.0, 1.0, 4.0]), bins=4, width=2).splitlines()
    assert [line.split() for line in lines] == [
        ["0.0", "1", "█"], ["1.0", "2", "██"], ["2.0", "0"], ["3.0", "1", "█"]
    ]  # fmt: skip


def test_a_new_environment_takes_at_most_45_lines_of_code() -> None:
    source = (EXAMPLES / "custom_environment.py").read_text()
    environment = source.split('"""')[2].split("# ---")[0]
    lines = [line.strip() for line in environment.splitlines()]
    # The learner is imported for the part below.
    code = [line for line in lines if line and not line.startswith("#") and "operant_gpu.models" not in line]
    assert 20 < len(code) <= MAX_LINES
