"""Episodes that policies play, statistics over them, and the videos of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_envs import Forbidden, Forever, Recall

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.envs import frozen_lake_map
from operant_gpu.models import PPO, Evaluation, PPOConfig, evaluate, export, record
from operant_gpu.models.evaluation import interquartile_mean

Image = pytest.importorskip("PIL.Image")

SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 32, "hidden_sizes": (16,)}


def cartpole(**changes: Any) -> PPO:
    return PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), PPOConfig(**{**SMALL, **changes}))


def naive(learner: PPO, episodes: int, seed: int) -> list[float]:
    """Play episodes one after the other: environment number i, from the same seed, in a batch of its own."""
    returns = []
    for index in range(episodes):
        env = operant_gpu.make("CartPole-v1", device="cpu", first_env_id=index)
        obs, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(learner.predict(obs))
            total, ended = total + float(reward), bool(terminated | truncated)
        returns.append(total)
    return returns


def test_each_environment_plays_one_whole_episode() -> None:
    learner = cartpole().learn(2_048)
    found = evaluate(learner, 12, seed=3)
    assert found.returns.tolist() == naive(learner, 12, 3)
    assert found.lengths.tolist() == found.returns.tolist()
    assert found.cut == 0


def test_drawn_actions_differ_and_a_seed_repeats_them() -> None:
    learner = cartpole().learn(2_048)
    one, again, other = (evaluate(learner, 64, deterministic=False, seed=seed).returns for seed in (1, 1, 2))
    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist()
    assert one.tolist() != evaluate(learner, 64, seed=1).returns.tolist()


def test_the_learner_goes_on_as_if_nothing_had_happened() -> None:
    one, other = cartpole(engine="eager").learn(256), cartpole(engine="eager").learn(256)
    evaluate(one, 8, deterministic=False)
    one.learn(256)
    other.learn(256)
    for left, right in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(left, right)


class Dropping(torch.nn.Module):
    """A network that acts otherwise when it learns, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.9))
        self.last = torch.nn.Linear(16, 3)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.last(self.layers(obs))
        return out[:, :2], out[:, 2]


def test_a_network_of_the_callers_own_acts_as_in_use_and_stays_as_it_is(tmp_path: Path) -> None:
    learner = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), PPOConfig(**SMALL), network=Dropping())
    learner.learn(128)
    other = walker()
    before = {name: value.clone() for name, value in learner.policy.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, again = evaluate(learner, 16), evaluate(learner, 16)
    record(other, tmp_path / "x.gif", max_steps=2)
    assert one.returns.tolist() == again.returns.tolist()
    assert torch.equal(torch.rand(1), expected)
    assert learner.policy.training
    torch.testing.assert_close(learner.policy.state_dict(), before, rtol=0, atol=0)


def test_memories_and_masks_are_heeded() -> None:
    config = PPOConfig(
        n_steps=16, batch_size=256, gru_size=16, shared_trunk=True, hidden_sizes=(16,), lr=5e-3, total_timesteps=25_000
    )
    remembering = PPO(Recall(64, device="cpu"), config).learn()
    assert evaluate(remembering, 64).mean > 0.95
    masked = PPO(Forbidden(16, device="cpu", max_episode_steps=20), PPOConfig(**SMALL))
    # Illegal actions pay.
    assert evaluate(masked, 16, deterministic=False).returns.tolist() == [0.0] * 16


def test_environments_without_an_end_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operant_gpu.models.evaluation.STEP_LIMIT", 30)
    learner = PPO(Forever(16, device="cpu", max_episode_steps=-1), PPOConfig(**SMALL))
    found = evaluate(learner, 5)
    assert (found.cut, found.lengths.tolist()) == (5, [30.0] * 5)


@pytest.mark.parametrize("episodes", [0, -1, 1.5, True, "all"])
def test_a_number_of_episodes_that_is_none(episodes: Any) -> None:
    with pytest.raises(InvalidConfig, match="episodes: expected an integer from 1 to"):
        evaluate(cartpole(), episodes)


@pytest.mark.parametrize(
    ("env", "params", "message"),
    [
        (
            "MinAtar-Breakout-v1",
            {"minimal_actions": False},
            r"actions Discrete\(3\), with minimal_actions there are Disc",
        ),
        (
            "FrozenLake-v1",
            frozen_lake_map(["SF", "FG"]),
            r"observations Discrete\(16\), with desc, starts there are Disc",
        ),
        ("Pendulum-v1", {"max_torque": 1.0}, None),
    ],
)
def test_a_policy_plays_where_it_knows_the_spaces(
    env: str, params: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    learner = PPO(operant_gpu.make(env, 16, device="cpu"), PPOConfig(**SMALL))
    if message is None:
        # Bounds alone are others.
        assert learner.env.single_action_space != operant_gpu.make(env, **params).single_action_space
        assert evaluate(learner, 3, params=params).returns.shape == (3,)
        return
    for play in (
        lambda: evaluate(learner, 3, params=params),
        lambda: record(learner, tmp_path / "x.gif", params=params),
    ):
        with pytest.raises(InvalidConfig, match=f"^params: the policy has learned with {message}"):
            play()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], 5.0),
        ([1.0, 3.0], 2.0),
        # A quarter goes at each end: 0 and 100.
        ([100.0, 1.0, 2.0, 0.0], 1.5),
        ([0, 0, 1, 2, 3, 4, 99, 99], 2.5),
        # A quarter of five is one, rounded down.
        ([9, 1, 2, 3, -9], 2.0),
    ],
)
def test_the_interquartile_mean_by_hand(values: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(values)) == expected
    assert Evaluation(np.array(values, float), np.ones(len(values))).iqm == expected


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    # The interquartile mean of a symmetric distribution is its centre.
    samples = [Evaluation(rng.normal(7.0, 2.0, 50), np.ones(50)).interval(seed=seed) for seed in range(200)]
    assert 0.88 <= np.mean([low <= 7.0 <= high for low, high in samples]) <= 0.99
    low, high = samples[0]
    # About 2 / sqrt(50), some more than that of the mean.
    assert 0.9 < high - low < 1.7


def test_an_interval_of_another_statistic_and_level() -> None:
    found = Evaluation(np.arange(100.0), np.ones(100))
    narrow, wide = (found.interval(lambda values: values.mean(-1), level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < found.mean < narrow[1] < wide[1]
    assert Evaluation(np.full(9, 3.0), np.ones(9)).interval() == (3.0, 3.0)


def walker() -> PPO:
    return PPO(operant_gpu.make("GridWalk-v0", 16, device="cpu"), PPOConfig(**SMALL))


def frames_of(path: Path) -> list[np.ndarray[Any, Any]]:
    with Image.open(path) as image:
        # GIF's are in hundredths of a second.
        assert image.info["duration"] >= 100
        frames = []
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
        return frames


def test_a_gif_shows_what_the_environment_draws(tmp_path: Path) -> None:
    learner = walker()
    made = record(learner, tmp_path / "deep" / "walk.gif", deterministic=False, max_steps=7, seed=4, fps=10)
    assert made.steps == 7
    env = operant_gpu.make("GridWalk-v0", device="cpu", render_mode="rgb_array")
    env.reset(seed=4)
    frames = frames_of(tmp_path / "deep" / "walk.gif")
    # Equal pictures one after the other are one, shown for longer.
    assert 2 <= len(frames) <= 8
    assert np.abs(frames[0] - env.render()[0]).mean() < 2


def test_an_mp4_has_a_picture_for_each_step(tmp_path: Path) -> None:
    import imageio_ffmpeg

    record(walker(), tmp_path / "walk.mp4", max_steps=9, fps=20)
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "walk.mp4"))
    assert (count, seconds) == (10, 0.5)


def test_episodes_follow_one_another_and_their_returns_are_those_of_the_environment(tmp_path: Path) -> None:
    env = operant_gpu.make("GridWalk-v0", 16, device="cpu", max_episode_steps=5)
    made = record(PPO(env, PPOConfig(**SMALL)), tmp_path / "walk.gif", episodes=3)
    assert len(made.returns) == 3
    # -0.01 a step, and 1 at the goal.
    assert all(round(value, 4) in {-0.05, *(1 - 0.01 * steps for steps in range(5))} for value in made.returns)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("walk.avi", {}, r"out: expected a file that ends in \.gif or \.mp4, got '.*walk\.avi'"),
        ("walk", {}, "out: expected a file that ends in"),
        ("walk.gif", {"episodes": 0}, "episodes: expected an integer from 1 to 10000, got 0"),
        ("walk.gif", {"max_steps": 0}, "max_steps: expected an integer from 1"),
        ("walk.gif", {"fps": 1000}, "fps: expected an integer from 1 to 100, got 1000"),
        ("walk.gif", {"fps": 60}, r"fps: a GIF has at most 50 steps a second, got 60: write an \.mp4"),
        ("walk.gif", {"seed": -1}, r"seed: expected an integer from 0 to 2\*\*63 - 1"),
        ("file/walk.gif", {}, "out: cannot write"),
    ],
)
def test_recordings_that_cannot_be(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfig, match=message):
        record(walker(), tmp_path / name, **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_environment_without_pictures_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="Recall-v0 has no pictures: give its definition a `draw` function"):
        record(PPO(Recall(16, device="cpu"), PPOConfig(**SMALL)), tmp_path / "x.gif")


def test_colours_that_come_later_are_right_too(tmp_path: Path) -> None:
    learner = PPO(operant_gpu.make("Game2048-v0", 16, device="cpu"), PPOConfig(**SMALL, cnn_channels=()))
    record(learner, tmp_path / "tiles.gif", deterministic=False, max_steps=150, seed=2, fps=10)
    env = operant_gpu.make("Game2048-v0", device="cpu", render_mode="rgb_array")
    env.reset(seed=2)
    first = {tuple(colour) for colour in env.render()[0].reshape(-1, 3).astype(int)}
    # The first board has tiles of 2 and 4 alone; the last has larger ones, in colours of their own.
    last = {tuple(colour) for colour in frames_of(tmp_path / "tiles.gif")[-1].reshape(-1, 3)}
    assert (245, 149, 99) in last - first


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda state, params: 1 / 0, "drawing Forever-v0 failed: ZeroDivisionError"),
        (lambda state, params: None, "expected a uint8 array .* of `draw` of Forever-v0, got None"),
        (lambda state, params: np.zeros((4, 4, 3)), r"got float64 \(4, 4, 3\)"),
        (lambda state, params: np.zeros((4, 4), np.uint8), r"got uint8 \(4, 4\)"),
        (lambda state, params: np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
    ],
)
@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_pictures_that_are_none(draw: Any, message: str, suffix: str, tmp_path: Path) -> None:
    env = dataclasses.replace(Forever, draw=draw)(16, device="cpu")
    with pytest.raises(InvalidConfig, match=message):
        record(PPO(env, PPOConfig(**SMALL)), tmp_path / f"x{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_render_refuses_what_is_no_picture() -> None:
    env = dataclasses.replace(Forever, draw=lambda state, params: np.zeros((4, 4, 3)))
    made = env(2, device="cpu", render_mode="rgb_array")
    made.reset(seed=0)
    with pytest.raises(InvalidConfig, match=r"expected a uint8 array .* got float64 \(4, 4, 3\)"):
        made.render(0)


def test_pictures_of_changing_size(tmp_path: Path) -> None:
    sizes = iter(range(8, 100, 2))
    env = dataclasses.replace(Forever, draw=lambda state, params: np.zeros((next(sizes), 8, 3), np.uint8))
    with pytest.raises(InvalidConfig, match=r"draw: pictures of one size, \(8, 8, 3\), are needed, got \(10, 8, 3\)"):
        record(PPO(env(16, device="cpu"), PPOConfig(**SMALL)), tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_learner_is_refused(tmp_path: Path) -> None:
    for use in (
        evaluate,
        lambda learner: record(learner, tmp_path / "x.gif"),
        lambda learner: export(learner, "x.pt2"),
    ):
        with pytest.raises(InvalidConfig, match=r"learner: expected a PPO .* got 'runs/mine'"):
            use("runs/mine")
        learner = cartpole()
        own_policy = r"got MLPPolicy: make one with PPO\(env, config\), and call its policy\.load_state_dict\("
        with pytest.raises(InvalidConfig, match=own_policy):
            use(learner.policy)
        own_module = r"got Linear: PPO\(env, PPOConfig\(\), network=module\) has one whose forward"
        with pytest.raises(InvalidConfig, match=own_module):
            use(torch.nn.Linear(4, 2))
    for seed in (-1, "x", None, 2**64):
        with pytest.raises(InvalidConfig, match=r"seed: expected an integer from 0 to 2\*\*63 - 1"):
            evaluate(cartpole(), 4, seed=seed)
    with pytest.raises(InvalidConfig, match="level: expected a number between 0 and 1, got 2"):
        Evaluation(np.ones(4), np.ones(4)).interval(level=2)
    for name, wrong in (("level", None), ("level", "x"), ("seed", -1), ("seed", None), ("statistic", 5)):
        with pytest.raises(InvalidConfig, match=f"^{name}: expected"):
            Evaluation(np.ones(4), np.ones(4)).interval(**{name: wrong})
