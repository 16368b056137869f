"""A training that is stopped, saved and resumed in another process ends with the bits of one that never was."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from here import SUPPORT
from resumed import HALF, SMALL, VARIANTS, WHOLE, Interrupted, digest, make, parts_of

import operant_gpu
from operant_gpu import InvalidConfig, files
from operant_gpu.models import PPO, PPOConfig


def train_half(variant: str, folder: Path) -> None:
    learner = make(variant, Interrupted)
    learner.keep_checkpoints(folder)
    learner.learn(WHOLE * SMALL["n_steps"] * 16)
    assert learner.iterations == HALF


def train_whole(variant: str) -> str:
    learner, history = make(variant), list[dict[str, float]]()
    learner.learn(WHOLE * SMALL["n_steps"] * 16, history.append)
    return digest(learner, [metrics for metrics in history if metrics["iterations"] > HALF])


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of trainings that were finished in another process, by variant."""
    folder = tmp_path_factory.mktemp("halves")
    for variant in VARIANTS:
        train_half(variant, folder / variant)
    program = [sys.executable, "-m", "resumed", folder]
    finished = subprocess.run(program, capture_output=True, text=True, check=False, cwd=SUPPORT)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("variant", VARIANTS)
def test_resuming_in_a_new_process_gives_the_same_bits(variant: str, resumed: dict[str, str]) -> None:
    assert resumed[variant] == train_whole(variant)


def test_a_digest_sees_each_part_that_decides_the_future() -> None:
    """Else the test above could not fail."""
    seen = {digest(make("rnd-gru"), [])}
    for change in (
        lambda learner: learner.policy.network.actor.bias.data.add_(1e-6),
        lambda learner: learner.optimizer.means.add_(1e-6),
        lambda learner: learner.reward_normalizer.returns.add_(1e-6),
        lambda learner: learner.policy.normalizer.moments.mean.add_(1e-12),
        lambda learner: learner.intrinsic._optimizer.squares.add_(1e-9),
        lambda learner: learner.env.state.velocity.add_(1e-6),
        lambda learner: learner.env._columns.elapsed.add_(1),
        lambda learner: learner._generator.manual_seed(5),
        lambda learner: learner._telemetry._sums.add_(1e-9),
        lambda learner: setattr(learner, "iterations", 1),
        lambda learner: torch.rand(1),
    ):
        learner = make("rnd-gru")
        change(learner)
        seen.add(digest(learner, []))
    assert len(seen) == 12


def test_a_resumed_training_ends_at_its_target_and_then_does_nothing() -> None:
    learner = make("fused", Interrupted)
    learner.learn(1280)
    assert (learner.timesteps, learner.target) == (640, 1280)
    assert learner.resume().timesteps == 1280
    calls: list[dict[str, float]] = []
    assert learner.resume(callback=calls.append).timesteps == 1280
    assert calls == []
    assert learner.resume(1536).timesteps == 1536


def test_a_resumed_training_anneals_the_learning_rate_on() -> None:
    rates: list[float] = []
    learner = make("fused", Interrupted)
    learner.learn(1280, lambda metrics: rates.append(metrics["lr"]))
    learner.resume(callback=lambda metrics: rates.append(metrics["lr"]))
    assert rates == pytest.approx([2.5e-3 * (1 - iteration / 10) for iteration in range(10)])


def test_without_a_training_there_is_nothing_to_resume(tmp_path: Path) -> None:
    learner = make("fused")
    with pytest.raises(InvalidConfig, match=r"there is no training to go on with: call learn\(\) first"):
        learner.resume()
    learner.save(tmp_path / "new.pt")
    assert PPO.load(tmp_path / "new.pt").learn(128).timesteps == 128


def test_a_training_killed_before_its_first_interval_begins_again_from_its_first_checkpoint(tmp_path: Path) -> None:
    def killed(metrics: dict[str, float]) -> None:
        raise SystemExit

    learner = make("gru")
    learner.keep_checkpoints(tmp_path)
    with pytest.raises(SystemExit):
        learner.learn(1280, killed)
    again = PPO.load(tmp_path)
    assert (again.timesteps, again.target) == (0, 1280)
    whole = make("gru").learn(1280)
    # What other code has drawn meanwhile is no part of it.
    torch.manual_seed(1)
    state, expected = again.resume().state_dict(), whole.state_dict()
    torch.testing.assert_close(state["policy"], expected["policy"], rtol=0, atol=0)
    torch.testing.assert_close(state["environments"]["state"], expected["environments"]["state"], rtol=0, atol=0)


def test_a_stop_before_the_beginning_ends_the_next_call_at_once() -> None:
    learner = make("fused")
    learner.stop()
    assert learner.learn(1280).timesteps == 0
    # That was one call's affair.
    assert learner.learn(256).timesteps == 256


def test_a_stop_from_another_thread(tmp_path: Path) -> None:
    learner = make("fused")
    timer = threading.Timer(0.2, learner.stop)
    timer.start()
    learner.learn(10**9)
    timer.join()
    assert 0 < learner.timesteps < 10**9


def test_a_stop_from_a_callback_comes_at_once() -> None:
    learner = make("fused")
    learner.learn(1280, lambda metrics: learner.stop())
    assert learner.iterations == 1


@pytest.mark.parametrize("variant", ["rarely-read", "gru", "noisy"])
def test_resuming_in_the_same_process_gives_the_same_bits(variant: str) -> None:
    learner, history = make(variant, Interrupted), list[dict[str, float]]()
    learner.learn(WHOLE * 128)
    assert learner.iterations == HALF
    learner.resume(callback=history.append)
    assert digest(learner, history) == train_whole(variant)


def test_saving_what_was_just_loaded_loses_nothing(tmp_path: Path) -> None:
    make("noisy", Interrupted).learn(WHOLE * 128).save(tmp_path / "one.pt")
    torch.manual_seed(1)
    PPO.load(tmp_path / "one.pt", **parts_of("noisy")).save(tmp_path / "two.pt")
    torch.manual_seed(2)
    history: list[dict[str, float]] = []
    learner = PPO.load(tmp_path / "two.pt", **parts_of("noisy")).resume(callback=history.append)
    assert digest(learner, history) == train_whole("noisy")


def test_another_training_leaves_the_process_its_generator(tmp_path: Path) -> None:
    make("fused", Interrupted).learn(1280).save(tmp_path / "half.pt")
    learner = PPO.load(tmp_path / "half.pt").learn(128)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    learner.resume(256)
    assert torch.equal(torch.rand(1), expected)


def test_a_recurrent_policy_goes_on_in_other_environments(tmp_path: Path) -> None:
    make("gru", Interrupted).learn(1280).save(tmp_path / "half.pt")
    env = operant_gpu.make("CartPole-v1", 8, device="cpu")
    assert PPO.load(tmp_path / "half.pt", env).resume().timesteps == 1280


def test_environments_of_the_callers_own_begin_anew(tmp_path: Path) -> None:
    make("normalized", Interrupted).learn(1280).save(tmp_path / "half.pt")
    env = operant_gpu.make("Pendulum-v1", 32, device="cpu", max_episode_steps=20)
    learner = PPO.load(tmp_path / "half.pt", env)
    assert learner.resume().timesteps == 640 + 3 * 256
    assert learner.reward_normalizer is not None
    assert learner.reward_normalizer.returns.shape == (32,)


def begun(learner: PPO) -> torch.Tensor:
    """Return what the running discounted returns are when the next training begins."""
    assert learner.reward_normalizer is not None
    returns: list[torch.Tensor] = []
    normalize = learner.reward_normalizer.forward

    def noted(rewards: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
        assert learner.reward_normalizer is not None
        returns.append(learner.reward_normalizer.returns.clone())
        return normalize(rewards, ended)

    learner.reward_normalizer.forward = noted  # type: ignore[method-assign]
    learner.learn(128)
    return returns[0]


@pytest.mark.parametrize("variant", ["normalized", "normalized-eager"])
def test_discounted_returns_begin_anew_with_the_episodes(variant: str, tmp_path: Path) -> None:
    learner = make(variant)
    learner.learn(3 * 128)
    learner.save(tmp_path / "learner.pt")
    assert begun(PPO.load(tmp_path / "learner.pt", device="cpu")).all()
    assert not begun(PPO.load(tmp_path / "learner.pt", make(variant).env)).any()
    learner.env.reset(options={"reset_mask": torch.arange(16) < 5})
    assert (begun(learner) == 0).tolist() == [True] * 5 + [False] * 11


def test_a_memory_begins_anew_with_the_episodes() -> None:
    learner = make("gru", Interrupted)
    learner.learn(1280)
    learner.env.reset(options={"reset_mask": torch.arange(16) < 5})
    before = learner._loop.memory()["starts"].clone()
    learner._begin(learner._loop.memory())
    rollout = learner._loop.rollout
    assert rollout is not None
    assert rollout.starts is not None
    assert torch.equal(rollout.starts[-1], before | (torch.arange(16) < 5))


THIRD = "step-000000000256.pt"


def test_a_disk_that_is_full_for_a_while_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), PPOConfig(**SMALL, checkpoint_interval=1))
    learner.keep_checkpoints(tmp_path)
    # What would become the third checkpoint is on a disk that is full.
    (tmp_path / ".full.partial").symlink_to("/dev/full")
    names = files._partial
    monkeypatch.setattr(
        files, "_partial", lambda path: tmp_path / ".full.partial" if path.name == THIRD else names(path)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learner.learn(512)
    assert ["No space left on device" in str(warning.message) for warning in caught] == [True]
    assert "Training goes on" in str(caught[0].message)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"step-{steps:012d}.pt" for steps in (128, 384, 512)]
