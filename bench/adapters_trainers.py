"""Trainers of other libraries, each on this library's environments and, with the same settings, on Gymnasium's.

A function trains until `watch(steps, act)` returns False. It gets the environment's id, whether environments are ours,
and a seed; `act` takes observations (n, ...) and returns the policy's likeliest actions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from rl_games.common import env_configurations, vecenv
from rl_games.common.algo_observer import DefaultAlgoObserver
from rl_games.common.ivecenv import IVecEnv
from rl_games.torch_runner import Runner
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from skrl.agents.torch import ppo as skrl_agents
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.trainers.torch import StepTrainer
from skrl.utils import set_seed
from skrl.utils.model_instantiators.torch import categorical_model, deterministic_model, gaussian_model
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, RewardScaling, TransformedEnv
from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import operant_gpu
from operant_gpu.adapters.rsl_rl import RslRlVecEnv
from operant_gpu.adapters.sb3 import SB3VecEnv
from operant_gpu.adapters.skrl import SkrlEnv
from operant_gpu.adapters.torchrl import TorchRLEnv

Act = Callable[[Tensor], Any]
# More steps than any training here takes.
UNLIMITED = 100_000_000


class Watch(Protocol):
    """What says when training is over."""

    def start(self) -> None:
        """Start the clock: all is constructed."""

    def __call__(self, steps: int, act: Act) -> bool:
        """Return whether to go on after so many steps of environments."""


class Trainer(NamedTuple):
    """A row of the table.

    Attributes:
        title: Of the library and the algorithm.
        train: Takes the environment's id, whether environments are ours, a seed, and what says when training is over.
        every: Steps from one evaluation to the next, by the environments that it trains on.
    """

    title: str
    train: Callable[[str, bool, int, Watch], None]
    every: dict[str, int]


# Stable-Baselines3


def sb3_env(env: str, num_envs: int, ours: bool) -> Any:
    return SB3VecEnv(env, num_envs, device="cpu") if ours else make_vec_env(env, num_envs)


def sb3_learn(model: Any, watch: Watch, total: int = UNLIMITED) -> None:
    def act(obs: Tensor) -> Any:
        return model.predict(obs.numpy(), deterministic=True)[0]

    watch.start()
    model.learn(total, callback=lambda local, _: watch(model.num_timesteps, act))


def sb3_ppo(env: str, ours: bool, seed: int, watch: Watch) -> None:
    settings: dict[str, Any] = {
        "CartPole-v1": {"n_steps": 32, "batch_size": 256, "n_epochs": 10, "gamma": 0.98, "gae_lambda": 0.8},
        "Pendulum-v1": {"n_steps": 128, "batch_size": 256, "n_epochs": 10, "gamma": 0.9, "gae_lambda": 0.95},
    }[env]
    model = PPO("MlpPolicy", sb3_env(env, 16, ours), learning_rate=1e-3, **settings, seed=seed, device="cpu")
    sb3_learn(model, watch)


def sb3_dqn(env: str, ours: bool, seed: int, watch: Watch) -> None:
    model = DQN(
        "MlpPolicy",
        sb3_env(env, 16, ours),
        learning_rate=1e-3,
        batch_size=128,
        learning_starts=1000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=16,
        gradient_steps=64,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [128, 128]},
        seed=seed,
        device="cpu",
    )
    # Exploration falls over a share of the steps.
    sb3_learn(model, watch, total=100_000)


def sb3_sac(env: str, ours: bool, seed: int, watch: Watch) -> None:
    model = SAC(
        "MlpPolicy",
        sb3_env(env, 16, ours),
        learning_rate=1e-3,
        learning_starts=512,
        train_freq=1,
        gradient_steps=8,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
    )
    sb3_learn(model, watch)


# skrl


def skrl_ppo(env: str, ours: bool, seed: int, watch: Watch) -> None:
    set_seed(seed)
    num_envs = 32
    envs = SkrlEnv(env, num_envs, device="cpu") if ours else wrap_env(gymnasium.make_vec(env, num_envs), verbose=False)
    known = {"observation_space": envs.observation_space, "action_space": envs.action_space, "device": envs.device}
    network = [{"name": "net", "input": "OBSERVATIONS", "layers": [64, 64], "activations": "tanh"}]
    is_discrete = isinstance(envs.action_space, spaces.Discrete)
    policy_model = categorical_model if is_discrete else gaussian_model
    policy = policy_model(**known, network=network, output="ACTIONS")
    models = {"policy": policy, "value": deterministic_model(**known, network=network, output="ONE")}
    rollouts = 32 if is_discrete else 128
    settings: dict[str, dict[str, Any]] = {
        "CartPole-v1": {"mini_batches": 4, "discount_factor": 0.98, "gae_lambda": 0.8},
        "Pendulum-v1": {
            "mini_batches": 16,
            "discount_factor": 0.9,
            "gae_lambda": 0.95,
            "rewards_shaper": lambda rewards, *_: rewards * 0.1,
        },
    }
    cfg = {
        "rollouts": rollouts,
        "learning_epochs": 10,
        "learning_rate": 1e-3,
        "value_loss_scale": 0.5,
        "value_clip": 0.0,
        "time_limit_bootstrap": True,
        **settings[env],
        "experiment": {"write_interval": 0, "checkpoint_interval": 0},
    }
    memory = RandomMemory(memory_size=rollouts, num_envs=num_envs, device=envs.device)
    agent = skrl_agents.PPO(models=models, memory=memory, **known, cfg=cfg)
    loop = {"timesteps": UNLIMITED, "headless": True, "disable_progressbar": True}
    trainer = StepTrainer(env=envs, agents=agent, cfg=loop)

    def act(obs: Tensor) -> Any:
        output, _ = policy.compute({"observations": obs}, "policy")
        return output.argmax(-1) if is_discrete else output

    watch.start()
    steps = 0
    while watch(steps, act):
        for _ in range(rollouts):
            trainer.train()
        steps += rollouts * num_envs


# TorchRL


def torchrl_env(env: str, num_envs: int, ours: bool) -> Any:
    if ours:
        return TorchRLEnv(env, num_envs, device="cpu")
    kwargs = {"autoreset_mode": AutoresetMode.DISABLED}
    envs = gymnasium.make_vec(env, num_envs, vectorization_mode="sync", vector_kwargs=kwargs)
    return GymWrapper(envs, categorical_action_encoding=True, device="cpu")


def torchrl_ppo(env: str, ours: bool, seed: int, watch: Watch) -> None:
    settings: dict[str, Any] = {
        "CartPole-v1": {"n_steps": 32, "n_batches": 4, "gamma": 0.98, "lmbda": 0.8},
        "Pendulum-v1": {"n_steps": 128, "n_batches": 16, "gamma": 0.9, "lmbda": 0.95},
    }[env]
    num_envs, n_steps, n_batches = 32, settings.pop("n_steps"), settings.pop("n_batches")
    envs = torchrl_env(env, num_envs, ours)
    if env == "Pendulum-v1":
        envs = TransformedEnv(envs, RewardScaling(loc=0.0, scale=0.1))
    envs.set_seed(seed)
    spec = envs.action_spec_unbatched
    hidden = {"num_cells": [64, 64], "activation_class": nn.Tanh}
    obs_size = envs.observation_spec["observation"].shape[-1]
    if env == "CartPole-v1":
        net, keys = MLP(obs_size, spec.space.n, **hidden), ["logits"]
        distribution, distribution_kwargs = torch.distributions.Categorical, {}
    else:
        net, keys = nn.Sequential(MLP(obs_size, 2 * spec.shape[-1], **hidden), NormalParamExtractor()), ["loc", "scale"]
        distribution, distribution_kwargs = TanhNormal, {"low": spec.space.low, "high": spec.space.high}
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], keys),
        in_keys=keys,
        spec=spec,
        distribution_class=distribution,
        distribution_kwargs=distribution_kwargs,
        return_log_prob=True,
    )
    critic = ValueOperator(MLP(obs_size, 1, **hidden), in_keys=["observation"])
    advantage = GAE(**settings, value_network=critic)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.0, critic_coeff=0.5, normalize_advantage=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    collector = Collector(envs, actor, frames_per_batch=num_envs * n_steps, total_frames=-1)

    def act(obs: Tensor) -> Any:
        output = net(obs)
        if env == "CartPole-v1":
            return output.argmax(-1)
        return TanhNormal(*output, **distribution_kwargs).deterministic_sample

    watch.start()
    steps = 0
    for data in collector:
        for _ in range(10):
            with torch.no_grad():
                advantage(data)
            flat = data.reshape(-1)
            for index in torch.randperm(len(flat)).chunk(n_batches):
                losses = loss(flat[index])
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
        steps += data.numel()
        if not watch(steps, act):
            break
    collector.shutdown()


# rsl_rl


class GymnasiumRslRl(VecEnv):
    """Gymnasium's vector environment as rsl_rl's.

    Args:
        env: Its id.
        num_envs: How many environments.
        seed: Of the first reset.
    """

    def __init__(self, env: str, num_envs: int, seed: int | None = None) -> None:
        kwargs = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.env = gymnasium.make_vec(env, num_envs, vectorization_mode="sync", vector_kwargs=kwargs)
        space: Any = self.env.single_action_space
        self.num_envs, self.device, self.cfg = num_envs, "cpu", {"id": env}
        self.num_actions, self._low, self._high = space.shape[0], space.low, space.high
        self.max_episode_length = gymnasium.spec(env).max_episode_steps
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.int64)
        self._obs, _ = self.env.reset(seed=seed)

    def get_observations(self) -> Any:
        """Return the present observations."""
        obs = torch.as_tensor(self._obs, dtype=torch.float32)
        return TensorDict({"policy": obs}, batch_size=[self.num_envs])

    def step(self, actions: Tensor) -> tuple[Any, Tensor, Tensor, dict[str, Any]]:
        """Take one step."""
        clipped = actions.numpy().clip(self._low, self._high)
        self._obs, reward, terminated, truncated, _ = self.env.step(clipped)
        done = torch.as_tensor(terminated | truncated)
        self.episode_length_buf = (self.episode_length_buf + 1) * ~done
        extras = {"time_outs": torch.as_tensor(truncated & ~terminated)}
        return self.get_observations(), torch.as_tensor(reward, dtype=torch.float32), done.long(), extras


def rsl_rl_ppo(env: str, ours: bool, seed: int, watch: Watch) -> None:
    num_envs, n_steps = 32, 128
    if ours:
        envs = RslRlVecEnv(env, num_envs, seed=seed, device="cpu")
    else:
        envs = GymnasiumRslRl(env, num_envs, seed)
    network = {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "relu"}
    cfg = {
        "num_steps_per_env": n_steps,
        "save_interval": UNLIMITED,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**network, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
        "critic": network,
        "algorithm": {
            "class_name": "PPO",
            "gamma": 0.9,
            "lam": 0.95,
            "learning_rate": 2e-3,
            "schedule": "fixed",
            "use_clipped_value_loss": False,
            "entropy_coef": 0.0,
            "num_learning_epochs": 10,
            "num_mini_batches": 16,
        },
    }
    runner = OnPolicyRunner(envs, cfg, log_dir=None, device="cpu")

    def act(obs: Tensor) -> Any:
        return runner.alg.get_policy()(TensorDict({"policy": obs}, batch_size=[len(obs)]))

    watch.start()
    steps = 0
    while watch(steps, act):
        runner.learn(1)
        steps += num_envs * n_steps


# rl_games


class GymnasiumTensors:
    """Gymnasium's vector environment with tensors, and `final_obs` (num_envs, ...) in each `info`, as ours have it.

    Args:
        env: Its id.
        num_envs: How many environments.
    """

    def __init__(self, env: str, num_envs: int) -> None:
        kwargs = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.env = gymnasium.make_vec(env, num_envs, vectorization_mode="sync", vector_kwargs=kwargs)
        self.single_observation_space = self.env.single_observation_space
        self.single_action_space = self.env.single_action_space

    def reset(self, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begin episodes."""
        obs, info = self.env.reset(seed=seed)
        return torch.as_tensor(obs), info

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take one step."""
        obs, reward, terminated, truncated, info = self.env.step(actions.numpy())
        final_obs = obs
        if "final_obs" in info:
            final_obs = obs.copy()
            final_obs[info["_final_obs"]] = np.stack(info["final_obs"][info["_final_obs"]])
        flags = torch.as_tensor(terminated), torch.as_tensor(truncated)
        reward = torch.as_tensor(reward, dtype=torch.float32)
        return torch.as_tensor(obs), reward, *flags, {"final_obs": torch.as_tensor(final_obs)}


class RlGamesVecEnv(IVecEnv):
    """Environments for rl_games, whose tensors stay where they are; rl_games copies what it keeps.

    Args:
        env: What `operant_gpu.make` returned.
        seed: Of the first reset.
    """

    def __init__(self, env: Any, seed: int | None = None) -> None:
        self.env, self._seed = env, seed

    def get_env_info(self) -> dict[str, Any]:
        """Return the spaces."""
        env = self.env
        return {"observation_space": env.single_observation_space, "action_space": env.single_action_space}

    def reset(self) -> Any:
        """Begin episodes."""
        obs, _ = self.env.reset(seed=self._seed)
        self._seed = None
        return obs

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take one step, and tell which episodes ended by time alone: rl_games adds what they go on to be worth."""
        obs, reward, terminated, truncated, _ = self.env.step(actions)
        return obs, reward, terminated | truncated, {"time_outs": truncated & ~terminated}


def rl_games_vec_env(name: str, num_actors: int, *, id: str, ours: bool, seed: int) -> RlGamesVecEnv:
    env = operant_gpu.make(id, num_actors, device="cpu") if ours else GymnasiumTensors(id, num_actors)
    return RlGamesVecEnv(env, seed)


vecenv.register("OPERANT", rl_games_vec_env)
env_configurations.register("operant", {"vecenv_type": "OPERANT"})


class RlGamesObserver(DefaultAlgoObserver):
    """Stop the clock of rl_games, and its loop.

    Args:
        watch: What says when training is over.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def after_init(self, algo: Any) -> None:
        """Start the clock."""
        super().after_init(algo)
        self.watch.start()

    def act(self, obs: Tensor) -> Any:
        """Return the likeliest actions."""
        self.algo.model.eval()
        output = self.algo.model({"is_train": False, "prev_actions": None, "obs": obs, "rnn_states": None})
        return output["logits"].argmax(-1) if "logits" in output else self.algo.preprocess_actions(output["mus"])

    def after_print_stats(self, frame: int, epoch_num: int, total_time: float) -> None:
        """End training after this epoch, if it is over."""
        super().after_print_stats(frame, epoch_num, total_time)
        if not self.watch(epoch_num * self.algo.batch_size, self.act):
            self.algo.max_epochs = epoch_num


def rl_games_ppo(env: str, ours: bool, seed: int, watch: Watch) -> None:
    is_discrete = env == "CartPole-v1"
    continuous = {
        "mu_activation": "None",
        "mu_init": {"name": "default"},
        "sigma_activation": "None",
        "sigma_init": {"name": "const_initializer", "val": 0.0},
        "fixed_sigma": True,
    }
    settings: dict[str, Any] = {
        "CartPole-v1": {"horizon_length": 32, "minibatch_size": 256, "gamma": 0.98, "tau": 0.8},
        "Pendulum-v1": {"horizon_length": 128, "minibatch_size": 256, "gamma": 0.9, "tau": 0.95},
    }[env]
    with tempfile.TemporaryDirectory() as folder:
        params = {
            "seed": seed,
            "torch_threads": 1,
            "algo": {"name": "a2c_discrete" if is_discrete else "a2c_continuous"},
            "model": {"name": "discrete_a2c" if is_discrete else "continuous_a2c_logstd"},
            "network": {
                "name": "actor_critic",
                "separate": True,
                "space": {"discrete": None} if is_discrete else {"continuous": continuous},
                "mlp": {"units": [64, 64], "activation": "tanh", "initializer": {"name": "default"}},
            },
            "config": {
                "name": "run",
                "env_name": "operant",
                "env_config": {"id": env, "ours": ours, "seed": seed},
                "num_actors": 32,
                **settings,
                "mini_epochs": 10,
                "learning_rate": 1e-3,
                "lr_schedule": None,
                "e_clip": 0.2,
                "clip_value": False,
                "critic_coef": 1.0,
                "bounds_loss_coef": 0.0,
                "entropy_coef": 0.0,
                "truncate_grads": True,
                "grad_norm": 0.5,
                "normalize_advantage": True,
                "normalize_input": False,
                "reward_shaper": {"scale_value": 1.0 if is_discrete else 0.1},
                "value_bootstrap": True,
                "device": "cpu",
                "torch_compile": False,
                "train_dir": folder,
                "save_best_after": UNLIMITED,
            },
        }
        observer = RlGamesObserver(watch)
        runner = Runner(observer)
        runner.load({"params": params})
        runner.run({"train": True})
        # Before its folder is gone.
        observer.algo.writer.close()


# A PPO of one file, in CleanRL's manner


class Agent(nn.Module):
    """An actor and a critic of two hidden layers each.

    Args:
        obs_size: Numbers of an observation.
        n_actions: Actions to choose from.
    """

    def __init__(self, obs_size: int, n_actions: int) -> None:
        super().__init__()

        def network(outputs: int, gain: float) -> nn.Sequential:
            layers = [nn.Linear(obs_size, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
            for layer, scale in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
                nn.init.orthogonal_(layer.weight, scale)
                nn.init.zeros_(layer.bias)
            return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])

        self.actor, self.critic = network(n_actions, 0.01), network(1, 1.0)

    def value(self, obs: Tensor) -> Tensor:
        """Return the values of observations."""
        value: Tensor = self.critic(obs).squeeze(-1)
        return value

    def policy(self, obs: Tensor) -> Any:
        """Return the distributions of actions."""
        return torch.distributions.Categorical(logits=self.actor(obs))


def single_file_ppo(env: str, ours: bool, seed: int, watch: Watch) -> None:
    num_envs, num_steps, gamma, gae_lambda, clip_eps = 32, 32, 0.98, 0.8, 0.2
    torch.manual_seed(seed)
    envs: Any = operant_gpu.make(env, num_envs, device="cpu") if ours else GymnasiumTensors(env, num_envs)
    agent = Agent(envs.single_observation_space.shape[0], int(envs.single_action_space.n))
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3, eps=1e-5)
    obs = torch.zeros(num_steps, num_envs, *envs.single_observation_space.shape)
    actions = torch.zeros(num_steps, num_envs, dtype=torch.int64)
    log_probs, rewards, dones, values, advantages = torch.zeros(5, num_steps, num_envs)
    next_obs, _ = envs.reset(seed=seed)
    steps = 0
    watch.start()
    while watch(steps, lambda seen: agent.actor(seen).argmax(-1)):
        with torch.no_grad():
            for t in range(num_steps):
                # A copy: the next step overwrites the environments' tensors.
                obs[t] = next_obs
                policy = agent.policy(next_obs)
                actions[t] = policy.sample()
                log_probs[t], values[t] = policy.log_prob(actions[t]), agent.value(next_obs)
                next_obs, reward, terminated, truncated, info = envs.step(actions[t])
                rewards[t], dones[t] = reward, terminated | truncated
                # What an episode that was cut off would have gone on to be worth.
                if truncated.any():
                    rewards[t] += gamma * agent.value(info["final_obs"]) * (truncated & ~terminated)
            next_value, advantage = agent.value(next_obs), torch.zeros(num_envs)
            for t in reversed(range(num_steps)):
                delta = rewards[t] + gamma * next_value * (1 - dones[t]) - values[t]
                advantage = delta + gamma * gae_lambda * (1 - dones[t]) * advantage
                advantages[t], next_value = advantage, values[t]
        batch = [part.flatten(0, 1) for part in (obs, actions, log_probs, advantages, advantages + values)]
        for _ in range(10):
            for index in torch.randperm(num_envs * num_steps).chunk(4):
                seen, taken, old_log_prob, advantage, target = (part[index] for part in batch)
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                ratio = (agent.policy(seen).log_prob(taken) - old_log_prob).exp()
                clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
                policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                value_loss = (agent.value(seen) - target).square().mean()
                optimizer.zero_grad()
                (policy_loss + 0.5 * value_loss).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        steps += num_envs * num_steps


TRAINERS = {
    "sb3-ppo": Trainer("Stable-Baselines3 PPO", sb3_ppo, {"CartPole-v1": 2_048, "Pendulum-v1": 4_096}),
    "sb3-dqn": Trainer("Stable-Baselines3 DQN", sb3_dqn, {"CartPole-v1": 1_024}),
    "sb3-sac": Trainer("Stable-Baselines3 SAC", sb3_sac, {"Pendulum-v1": 512}),
    "skrl-ppo": Trainer("skrl PPO", skrl_ppo, {"CartPole-v1": 2_048, "Pendulum-v1": 4_096}),
    "torchrl-ppo": Trainer("TorchRL PPO", torchrl_ppo, {"CartPole-v1": 2_048, "Pendulum-v1": 4_096}),
    "rsl-rl-ppo": Trainer("rsl_rl PPO", rsl_rl_ppo, {"Pendulum-v1": 4_096}),
    "rl-games-ppo": Trainer("rl_games PPO", rl_games_ppo, {"CartPole-v1": 2_048, "Pendulum-v1": 4_096}),
    "single-file-ppo": Trainer("PPO in one file", single_file_ppo, {"CartPole-v1": 2_048}),
}
