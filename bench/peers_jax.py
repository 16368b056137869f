"""PPO in JAX, for comparison: environments, rollout and update in one compiled function, as PureJaxRL has it.

Written for these benchmarks, to learn what this library's PPO learns with the same `PPOConfig`: two networks, Adam with
a falling rate, advantages normalized by minibatch, time limits bootstrapped, rewards scaled where that is set.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

# JAX would take three quarters of a GPU's memory for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
from jax import lax, nn, random, tree, vmap

from operant_gpu.hyperparameters import Hyperparameters
from operant_gpu.models import PPOConfig

Array = Any
# Takes timesteps, episodes and the mean return of the last of them; False ends training.
Report = Callable[[int, int, float], bool]

BETAS, EPS = (0.9, 0.999), 1e-5
HIDDEN_GAIN, POLICY_GAIN, VALUE_GAIN = math.sqrt(2), 0.01, 1.0
# Settings of this library's PPO that are not written here.
UNWRITTEN = "vf_clip_eps", "target_kl", "normalize_observations", "rnd_coef", "shared_trunk", "gru_size", "use_amp"


class Task(NamedTuple):
    """An environment: functions of one instance, which are mapped over the batch."""

    outputs: int
    is_gaussian: bool
    time_limit: int
    reset: Callable[[Array], Array]  # of a key: state
    step: Callable[[Array, Array], tuple[Array, Array, Array]]  # of state and action: state, reward, terminated
    observe: Callable[[Array], Array]


def cartpole() -> Task:
    """Return Gymnasium's CartPole-v1."""

    def reset(key: Array) -> Array:
        return random.uniform(key, (4,), minval=-0.05, maxval=0.05)

    def step(state: Array, action: Array) -> tuple[Array, Array, Array]:
        _, x_dot, theta, theta_dot = state
        force = jnp.where(action == 1, 10.0, -10.0)
        sine, cosine = jnp.sin(theta), jnp.cos(theta)
        pushed = (force + 0.05 * theta_dot**2 * sine) / 1.1
        theta_acc = (9.8 * sine - cosine * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * cosine**2 / 1.1))
        x_acc = pushed - 0.05 * theta_acc * cosine / 1.1
        moved = state + 0.02 * jnp.stack([x_dot, x_acc, theta_dot, theta_acc])
        return moved, jnp.float32(1.0), (jnp.abs(moved[0]) > 2.4) | (jnp.abs(moved[2]) > 12 * math.pi / 180)

    return Task(2, False, 500, reset, step, lambda state: state)


def pendulum() -> Task:
    """Return Gymnasium's Pendulum-v1, with actions in the policy's units."""

    def reset(key: Array) -> Array:
        return random.uniform(key, (2,), minval=-1.0, maxval=1.0) * jnp.array([math.pi, 1.0])

    def step(state: Array, action: Array) -> tuple[Array, Array, Array]:
        angle, speed = state
        torque = 2.0 * jnp.clip(action[0], -1.0, 1.0)
        upright = (angle + math.pi) % (2 * math.pi) - math.pi
        cost = upright**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = jnp.clip(speed + (15.0 * jnp.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
        return jnp.stack([angle + speed * 0.05, speed]), -cost, jnp.bool_(False)

    def observe(state: Array) -> Array:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    return Task(1, True, 200, reset, step, observe)


TASKS = {"CartPole-v1": cartpole, "Pendulum-v1": pendulum}


class Progress(NamedTuple):
    """All that an iteration changes."""

    parameters: Any
    means: Any
    squares: Any
    updates: Array
    states: Array
    elapsed: Array
    episode_return: Array
    discounted: Array  # running returns of the rewards' scaling, and their moments
    moments: tuple[Array, Array, Array]
    key: Array
    iteration: Array


class Steps(NamedTuple):
    """What a rollout keeps, (n_steps, num_envs, ...)."""

    obs: Array
    actions: Array
    log_probs: Array
    values: Array
    rewards: Array
    terminated: Array
    ended: Array
    final_obs: Array
    returns: Array  # of the episodes that ended, else 0


class JaxPPO:
    """PPO of one environment, compiled when it is made.

    Args:
        env: Name of the environment, of `TASKS`.
        config: Settings; the seed is that of `begin`.

    Attributes:
        compile_seconds: How long JAX compiled an iteration.

    Raises:
        ValueError: For settings that are not written here.
    """

    def __init__(self, env: str, config: PPOConfig) -> None:
        unwritten = [name for name in UNWRITTEN if getattr(config, name) != getattr(PPOConfig(), name)]
        unwritten += [
            name for name in Hyperparameters._fields if name != "lr" and isinstance(getattr(config, name), str | tuple)
        ]
        config = config.fitted(config.num_envs)
        self._samples = config.n_steps * config.num_envs
        self._batch_size = config.batch_size or self._samples
        if unwritten or self._samples % self._batch_size:
            raise ValueError(f"not written in JAX: {unwritten or 'minibatches of different sizes'}")
        self._task, self.config = TASKS[env](), cast(Any, config)
        self.begin: Callable[[int], Progress] = jax.jit(self._begin)
        started = time.perf_counter()
        self._compiled = jax.jit(self._iterate, donate_argnums=0).lower(self.begin(0)).compile()
        self.compile_seconds = time.perf_counter() - started

    def iterate(self, progress: Progress) -> tuple[Progress, Array]:
        """Collect steps and learn from them; return the number of episodes that ended and the sum of their returns."""
        result: tuple[Progress, Array] = self._compiled(progress)
        return result

    def learn(self, seed: int, report: Report, episodes: int) -> Progress:
        """Train until `report` returns False, or to the settings' end; mean returns are over so many episodes."""
        progress, latest, ended = self.begin(seed), deque[tuple[float, float]](), 0
        for iteration in range(1, -(-self.config.total_timesteps // self._samples) + 1):
            progress, counted = self.iterate(progress)
            latest.append(tuple(counted.tolist()))
            ended += int(latest[-1][0])
            while sum(number for number, _ in latest) - latest[0][0] >= episodes:
                latest.popleft()
            number, total = map(sum, zip(*latest, strict=True))
            if not report(iteration * self._samples, ended, total / max(number, 1.0)):
                break
        return progress

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def evaluate(self, parameters: Any, seed: int, episodes: int) -> Array:
        """Return the mean return of so many first episodes of likeliest actions."""

        def step(carry: Any, _: Any) -> Any:
            states, total, goes_on = carry
            outputs = self._network(parameters, vmap(self._task.observe)(states))[0]
            actions = outputs if self._task.is_gaussian else outputs.argmax(-1)
            states, rewards, terminated = vmap(self._task.step)(states, actions)
            return (states, total + goes_on * rewards, goes_on & ~terminated), None

        states = vmap(self._task.reset)(random.split(random.key(seed), episodes))
        carry = states, jnp.zeros(episodes), jnp.ones(episodes, bool)
        return lax.scan(step, carry, None, self._task.time_limit)[0][1].mean()

    def _begin(self, seed: Array) -> Progress:
        config, count = self.config, self.config.num_envs
        *keys, own = random.split(random.key(seed), 4)
        states = vmap(self._task.reset)(random.split(keys[2], count))
        parameters = {
            "actor": self._layers(keys[0], self._task.outputs, POLICY_GAIN),
            "critic": self._layers(keys[1], 1, VALUE_GAIN),
            "log_std": jnp.full(self._task.outputs if self._task.is_gaussian else 0, config.log_std_init),
        }
        return Progress(
            parameters=parameters,
            means=tree.map(jnp.zeros_like, parameters),
            squares=tree.map(jnp.zeros_like, parameters),
            updates=jnp.float32(0),
            states=states,
            elapsed=jnp.zeros(count, jnp.int32),
            episode_return=jnp.zeros(count),
            discounted=jnp.zeros(count),
            moments=(jnp.float32(0), jnp.float32(1), jnp.float32(0)),
            key=own,
            iteration=jnp.int32(0),
        )

    def _layers(self, key: Array, outputs: int, gain: float) -> list[tuple[Array, Array]]:
        inputs = jax.eval_shape(lambda: self._task.observe(self._task.reset(random.key(0)))).shape[0]
        sizes = [inputs, *self.config.hidden_sizes, outputs]
        gains = [HIDDEN_GAIN] * len(self.config.hidden_sizes) + [gain]
        keys = random.split(key, len(gains))
        return [
            (nn.initializers.orthogonal(gain)(key, (sizes[i], sizes[i + 1])), jnp.zeros(sizes[i + 1]))
            for i, (key, gain) in enumerate(zip(keys, gains, strict=True))
        ]

    def _network(self, parameters: Any, obs: Array) -> tuple[Array, Array]:
        return self._evaluate(parameters["actor"], obs), self._evaluate(parameters["critic"], obs)[..., 0]

    def _evaluate(self, layers: list[tuple[Array, Array]], features: Array) -> Array:
        for weights, biases in layers[:-1]:
            features = getattr(nn, self.config.activation)(features @ weights + biases)
        weights, biases = layers[-1]
        return features @ weights + biases

    def _sample(self, parameters: Any, outputs: Array, key: Array) -> Array:
        if self._task.is_gaussian:
            return outputs + jnp.exp(parameters["log_std"]) * random.normal(key, outputs.shape)
        return random.categorical(key, outputs)

    def _log_prob(self, parameters: Any, outputs: Array, actions: Array) -> Array:
        if self._task.is_gaussian:
            log_std = parameters["log_std"]
            noise = (actions - outputs) * jnp.exp(-log_std)
            return (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        return jnp.take_along_axis(nn.log_softmax(outputs), actions[..., None], -1)[..., 0]

    def _entropy(self, parameters: Any, outputs: Array) -> Array:
        if self._task.is_gaussian:
            return (parameters["log_std"] + 0.5 * math.log(2 * math.pi * math.e)).sum()
        log_probs = nn.log_softmax(outputs)
        return -(jnp.exp(log_probs) * log_probs).sum(-1).mean()

    def _iterate(self, progress: Progress) -> tuple[Progress, Array]:
        key, collecting, learning = random.split(progress.key, 3)
        progress, steps = self._collect(progress._replace(key=key), collecting)
        progress, rewards = self._scaled(progress, steps)
        advantages = self._advantages(progress.parameters, steps, rewards)
        columns = steps.obs, steps.actions, steps.log_probs, advantages, advantages + steps.values
        rows = tuple(column.reshape(self._samples, *column.shape[2:]) for column in columns)
        keys = random.split(learning, self.config.n_epochs)
        progress = lax.scan(lambda now, key: self._pass(now, rows, key), progress, keys)[0]
        counted = jnp.stack([steps.ended.sum().astype(jnp.float32), steps.returns.sum()])
        return progress._replace(iteration=progress.iteration + 1), counted

    def _collect(self, progress: Progress, key: Array) -> tuple[Progress, Steps]:
        task, parameters = self._task, progress.parameters

        def step(carry: Any, key: Array) -> Any:
            states, elapsed, total = carry
            acting, restarting = random.split(key)
            obs = vmap(task.observe)(states)
            outputs, values = self._network(parameters, obs)
            actions = self._sample(parameters, outputs, acting)
            moved, rewards, terminated = vmap(task.step)(states, actions)
            elapsed, total = elapsed + 1, total + rewards
            ended = terminated | (elapsed >= task.time_limit)
            fresh = vmap(task.reset)(random.split(restarting, len(states)))
            kept = Steps(
                obs=obs,
                actions=actions,
                log_probs=self._log_prob(parameters, outputs, actions),
                values=values,
                rewards=rewards,
                terminated=terminated,
                ended=ended,
                final_obs=vmap(task.observe)(moved),
                returns=ended * total,
            )
            return (jnp.where(ended[:, None], fresh, moved), jnp.where(ended, 0, elapsed), total * ~ended), kept

        carry = progress.states, progress.elapsed, progress.episode_return
        (states, elapsed, total), steps = lax.scan(step, carry, random.split(key, self.config.n_steps))
        return progress._replace(states=states, elapsed=elapsed, episode_return=total), steps

    def _scaled(self, progress: Progress, steps: Steps) -> tuple[Progress, Array]:
        """Return rewards divided by the running deviation of the discounted return, if that is set."""
        if not self.config.normalize_rewards:
            return progress, steps.rewards

        def step(running: Array, row: tuple[Array, Array]) -> Any:
            reward, ended = row
            running = running * self.config.gamma + reward
            return running * ~ended, running

        discounted, history = lax.scan(step, progress.discounted, (steps.rewards, steps.ended))
        mean, var, count = progress.moments
        total = count + history.size
        share, delta = history.size / total, history.mean() - mean
        var = var * (1 - share) + history.var() * share + delta**2 * share * (1 - share)
        rewards = (steps.rewards * lax.rsqrt(var + 1e-8)).clip(-10.0, 10.0)
        return progress._replace(discounted=discounted, moments=(mean + delta * share, var, total)), rewards

    def _advantages(self, parameters: Any, steps: Steps, rewards: Array) -> Array:
        gamma, lam = self.config.gamma, self.config.gae_lambda
        following = self._evaluate(parameters["critic"], steps.final_obs)[..., 0] * ~steps.terminated

        def step(running: Array, row: tuple[Array, Array]) -> Any:
            delta, ended = row
            running = delta + gamma * lam * running * ~ended
            return running, running

        deltas = rewards + gamma * following - steps.values
        first = jnp.zeros(rewards.shape[1])
        return lax.scan(step, first, (deltas, steps.ended), reverse=True, unroll=16)[1]

    def _pass(self, progress: Progress, rows: tuple[Array, ...], key: Array) -> tuple[Progress, None]:
        order = random.permutation(key, self._samples)
        parts = self._samples // self._batch_size
        shuffled = tuple(row[order].reshape(parts, self._batch_size, *row.shape[1:]) for row in rows)
        return lax.scan(self._improve, progress, shuffled)[0], None

    def _improve(self, progress: Progress, batch: tuple[Array, ...]) -> tuple[Progress, None]:
        config = self.config
        slopes = jax.grad(self._loss)(progress.parameters, batch)
        norm = jnp.sqrt(sum((slope**2).sum() for slope in tree.leaves(slopes)))
        slopes = tree.map(lambda slope: slope / jnp.maximum((norm + 1e-6) / config.max_grad_norm, 1.0), slopes)
        means = tree.map(lambda own, slope: BETAS[0] * own + (1 - BETAS[0]) * slope, progress.means, slopes)
        squares = tree.map(lambda own, slope: BETAS[1] * own + (1 - BETAS[1]) * slope**2, progress.squares, slopes)
        updates = progress.updates + 1
        done = progress.iteration * self._samples / config.total_timesteps
        first, last = config.lr if isinstance(config.lr, tuple) else (config.lr, config.lr)
        rate = (first + (last - first) * done) / (1 - BETAS[0] ** updates)
        correction = 1 - BETAS[1] ** updates

        def moved(own: Array, mean: Array, square: Array) -> Array:
            return own - rate * mean / (jnp.sqrt(square / correction) + EPS)

        parameters = tree.map(moved, progress.parameters, means, squares)
        return progress._replace(parameters=parameters, means=means, squares=squares, updates=updates), None

    def _loss(self, parameters: Any, batch: tuple[Array, ...]) -> Array:
        config, (obs, actions, log_probs, advantages, returns) = self.config, batch
        outputs, values = self._network(parameters, obs)
        ratio = jnp.exp(self._log_prob(parameters, outputs, actions) - log_probs)
        if config.normalize_advantages:
            advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
        clipped = ratio.clip(1 - config.clip_eps, 1 + config.clip_eps)
        policy_loss = -jnp.minimum(ratio * advantages, clipped * advantages).mean()
        value_loss = 0.5 * ((values - returns) ** 2).mean()
        return policy_loss + config.vf_coef * value_loss - config.ent_coef * self._entropy(parameters, outputs)
