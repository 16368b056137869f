"""What a learner is made of, checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium.vector import AutoresetMode

from operant_gpu.errors import InvalidConfig
from operant_gpu.hyperparameters import Hyperparameters
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.policies.distributions import DiagonalGaussian
from operant_gpu.models.policies.normalization import OneHot
from operant_gpu.models.policies.policy import Policy
from operant_gpu.models.ppo.fused import find_obstacle
from operant_gpu.models.ppo.rnd import RND, IntrinsicReward
from operant_gpu.models.presets import LARGE_PRESETS, PRESETS
from operant_gpu.spaces import action_layout, observation_layout
from operant_gpu.vector import VecEnv


def check_env(env: Any) -> None:
    """Check that something is a vector environment."""
    if not isinstance(env, VecEnv):
        raise InvalidConfig("env", f"expected a VecEnv (operant_gpu.make(...)), got {env!r}")


def checked_config(env: VecEnv, config: PPOConfig | None, intrinsic: IntrinsicReward | None) -> PPOConfig:
    """Return the settings, if they fit the environments."""
    check_env(env)
    if observation_layout(env.single_observation_space).seen == ():
        raise InvalidConfig("env", "PPO needs observations with an axis: give the Box a shape, such as (1,)")
    if env.output != "torch":
        raise InvalidConfig("env", f"PPO needs output='torch', got {env.output!r}")
    if env.autoreset_mode is not AutoresetMode.SAME_STEP:
        raise InvalidConfig("env", f"PPO needs autoreset_mode=SAME_STEP, got {env.autoreset_mode.name}")
    id = env.environment.id
    if config is None:
        config = PPOConfig.for_env(id) if id in PRESETS else PPOConfig()
    if isinstance(config, Mapping):
        raise InvalidConfig("config", f"expected a PPOConfig, got {config!r}: make one with PPOConfig(**settings)")
    if not isinstance(config, PPOConfig):
        raise InvalidConfig("config", f"expected a PPOConfig, got {config!r}")
    if config.engine == "graph" and env.device.type != "cuda":
        raise InvalidConfig(
            "engine", f"'graph' needs environments on a CUDA device, these are on {env.device}: use 'auto'"
        )
    # Nobody has chosen that of the preset, which is for as many environments as the preset has.
    config = config.fitted(env.num_envs, usual_settings(env, config))
    if config.staggered_starts and env.max_episode_steps is None:
        raise InvalidConfig("staggered_starts", "environments without a time limit cannot be staggered: leave it out")
    if config.on_fault is not None and env.stopped is None:
        message = f"{config.on_fault!r} is for environments that keep faults: make them with debug='faults'"
        raise InvalidConfig("on_fault", message)
    if intrinsic is not None and config.rnd_coef:
        raise InvalidConfig("rnd_coef", "an intrinsic reward was given: set rnd_coef=0, or leave intrinsic out")
    if intrinsic is not None and not isinstance(intrinsic, IntrinsicReward):
        raise InvalidConfig("intrinsic", f"expected an IntrinsicReward, got {intrinsic!r}")
    return config


def have_same_units(env: VecEnv, one: bool, other: bool) -> bool:
    """Tell whether policies act in the same units with either value of `scale_actions`."""
    layout = action_layout(env.single_action_space)
    return layout.scaling(one) == layout.scaling(other)


def check_units(policy: Policy, env: VecEnv, config: PPOConfig) -> None:
    """Check that a policy acts in the bounds of the environments, and in units that the settings tell again."""
    own, made = action_layout(env.single_action_space).scaling(config.scale_actions), policy.distribution
    if isinstance(made, DiagonalGaussian) and made.scaling() != own:
        expected = f"env.single_action_space and scale_actions={config.scale_actions}"
        raise InvalidConfig("policy", f"it acts in other bounds or units: make it with {expected}")


def usual_settings(env: VecEnv, config: PPOConfig) -> Mapping[str, Any]:
    """Return the environment's tuned settings, if it has any: the large ones, if the settings have their minibatch."""
    large = LARGE_PRESETS.get(env.environment.id, {})
    is_large = config.batch_size is not None and config.batch_size == large.get("batch_size")
    return large if is_large else PRESETS.get(env.environment.id, {})


def obstacle_to_fusing(env: VecEnv, policy: Policy, config: PPOConfig) -> str | None:
    """Return why the learner is not to be fused; None if it is."""
    if config.engine not in ("auto", "fused"):
        return f"engine={config.engine!r}"
    obstacle = find_obstacle(env, policy, config)
    if obstacle is not None and config.engine == "fused":
        raise InvalidConfig("engine", f"'fused' cannot be had here: {obstacle}; use 'auto'")
    return obstacle


def curiosity(env: VecEnv, config: PPOConfig, now: Hyperparameters) -> IntrinsicReward | None:
    """Return the curiosity that the settings ask for, with the numbers of a learner."""
    if not config.rnd_coef:
        return None
    layout = observation_layout(env.single_observation_space)
    one_hot = OneHot(layout.choices, layout.start) if layout.choices else None
    bonus = RND(layout.seen, env.num_envs, seed=config.seed, device=env.device, one_hot=one_hot)
    bonus.follow(now)
    return bonus
