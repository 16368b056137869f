"""Which settings make an `MLPPolicy`, what it refuses, and that PPO learns with it as it did with any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from mlp_policies import ACTIONS, assert_views, box, forward, make, random, scrambled
from torch import Tensor, nn

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.models import PPO, MLPPolicy, Policy, PPOConfig
from operant_gpu.models.policies.making import make_policy
from operant_gpu.models.policies.policy import policy_parts
from operant_gpu.models.presets import PRESETS

MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "four layers": (
        {"hidden_sizes": (8, 8, 8, 8)},
        r"hidden_sizes: .*3 layers of up to 128.*\(8, 8, 8, 8\): give fewer",
    ),
    "too wide": ({"hidden_sizes": (64, 129)}, r"hidden_sizes: .*up to 128 units.*\(64, 129\): give fewer or narrower"),
    "elu": ({"activation": "elu"}, "activation: expected 'tanh' or 'relu' .*got 'elu': set one"),
    "a GRU": ({"gru_size": 8}, "gru_size: .* no memory, got a GRU of width 8: set gru_size=0"),
    "half precision": ({"use_amp": True}, "use_amp: .*float32, got use_amp=True: set use_amp=False"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_settings_of_another_kind_of_policy_are_refused(kind: str) -> None:
    changes, message = MISFITS[kind]
    with pytest.raises(InvalidConfig, match=rf"^{message}") as caught:
        make(**changes)
    assert caught.value.param == message.split(":")[0]


def test_convolutions_are_refused_but_images_can_be_flattened() -> None:
    with pytest.raises(InvalidConfig, match=r"^cnn_channels: .*images \(2, 6, 6\): set cnn_channels=\(\)"):
        make(shape=(2, 6, 6))
    policy = scrambled(make(shape=(2, 6, 6), cnn_channels=()))
    obs = random(4, 2, 6, 6)
    torch.testing.assert_close(policy.mlp.evaluate(obs.flatten(1)), forward(policy, obs))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "precision": (
        lambda: MLPPolicy(box(4), ACTIONS["gaussian"], precision="fp32"),
        r"precision: expected 'tf32' or 'ieee' \('ieee' computes as .*, got 'fp32'; did you mean 'tf32'\?",
    ),
    "a name that is nearly right": (lambda: make(activation="leaky_relu"), "activation: .*; did you mean 'relu'"),
    "no precision": (lambda: MLPPolicy(box(4), ACTIONS["gaussian"], precision=None), "precision: .*got None"),
    "a dictionary": (lambda: MLPPolicy(box(4), ACTIONS["gaussian"], {}), r"config: expected a PPOConfig, got \{\}"),
    "observations without axes": (lambda: MLPPolicy(box(), ACTIONS["gaussian"]), "observation_space: .*with an axis"),
    "discrete observations": (
        lambda: MLPPolicy(spaces.Discrete(3), ACTIONS["gaussian"], PPOConfig(normalize_observations=True)),
        r"normalize_observations: Discrete\(3\) is seen one-hot, which cannot be normalized",
    ),
    "several integers": (
        lambda: MLPPolicy(spaces.MultiDiscrete([3, 3]), ACTIONS["gaussian"]),
        r"observation_space: expected a Box or MultiBinary with an axis, or Discrete, got Multi.*: give env.single",
    ),
    "actions": (lambda: MLPPolicy(box(4), spaces.MultiBinary(3)), "action_space: expected Discrete.*got MultiBinary"),
    "NaN": (lambda: make(log_std_init=float("nan")), "log_std_init: expected a finite number"),
    "no units": (lambda: make(hidden_sizes=(8, 0)), "hidden_sizes: expected widths above 0"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_makes_no_sense_is_refused(kind: str) -> None:
    call, message = WRONG[kind]
    with pytest.raises(InvalidConfig, match=f"^{message}"):
        call()


@pytest.mark.parametrize("kind", MISFITS)
def test_ppo_takes_other_settings_as_ever_and_rollouts_say_why_not(kind: str) -> None:
    env = operant_gpu.make("CartPole-v1", 4, device="cpu", backend="numpy")
    policy = PPO(env, PPOConfig(n_steps=8, batch_size=16, **MISFITS[kind][0])).policy
    assert type(policy) is Policy
    env.reset(seed=0)
    network = "RecurrentActorCritic" if kind == "a GRU" else "ActorCritic"
    with pytest.raises(InvalidConfig, match=f"^policy: expected .*MLPPolicy, got a Policy with a {network}: .*learner"):
        env.rollout(3, policy)


def test_a_network_of_the_callers_own_stays_itself() -> None:
    class Own(nn.Linear):
        def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
            out = super().forward(obs)
            return out[:, 1:], out[:, 0]

    assert type(make_policy(box(5), ACTIONS["gaussian"], PPOConfig(), Own(5, 3))) is Policy


# Those of boards have convolutions or wide layers.
@pytest.mark.parametrize("name", [name for name, changes in PRESETS.items() if "cnn_channels" not in changes])
def test_the_presets_train_policies_that_rollouts_take(name: str) -> None:
    env = operant_gpu.make(name, 8, device="cpu", backend="numpy")
    learner = PPO(env, PPOConfig.for_env(name, n_steps=16, batch_size=64, n_epochs=1))
    assert isinstance(learner.policy, MLPPolicy)
    flat, pointer, before = learner.policy.flat, learner.policy.flat.data_ptr(), learner.policy.flat.clone()
    learner.learn(3 * 16 * 8)
    assert learner.policy.flat is flat
    assert flat.data_ptr() == pointer
    assert not torch.equal(flat, before)
    assert_views(learner.policy)
    assert env.rollout(5, learner.policy, ["value"])["value"].isfinite().all()


def learner_with(policy: type, monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> PPO:
    """Return a learner with a policy of this class, be it an `MLPPolicy` or not."""

    def plain(observations: Any, actions: Any, config: PPOConfig, network: Any = None) -> Policy:
        return Policy(*policy_parts(observations, actions, config))

    monkeypatch.setattr("operant_gpu.models.ppo.learner.make_policy", make_policy if policy is MLPPolicy else plain)
    env = operant_gpu.make(name, 8, device="cpu", backend="numpy")
    learner = PPO(env, PPOConfig.for_env(name, n_steps=16, batch_size=64, engine="eager", **changes))
    assert type(learner.policy) is policy
    return learner


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCarContinuous-v0"])
def test_training_and_checkpoints_are_those_of_a_policy_in_separate_tensors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, path = [], tmp_path / "checkpoint.pt"
    for first, second in ((Policy, MLPPolicy), (MLPPolicy, Policy), (MLPPolicy, MLPPolicy)):
        learner_with(first, monkeypatch, name).learn(3 * 16 * 8).save(path)
        # For what `load` makes.
        env = learner_with(second, monkeypatch, name).env
        learner = PPO.load(path, env)
        assert type(learner.policy) is second
        states.append(learner.learn(2 * 16 * 8).policy.state_dict())
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0)
    saved = torch.load(path, weights_only=True)["policy"]
    config = PPOConfig.for_env(name)
    alone = MLPPolicy(env.single_observation_space, env.single_action_space, config)
    alone.load_state_dict(saved)
    assert_views(alone)
    torch.testing.assert_close(alone.state_dict(), saved, rtol=0, atol=0)
