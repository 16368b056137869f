"""Tuned settings of PPO for the environments of the library: what differs from the defaults.

The usual ones are tuned for the mean return of their policies at the end of their steps, and for little time on a CPU;
`LEVELS` and `docs/results.md` have what they reach. The large ones are for a GPU: thousands of environments, and as few
gradient steps as learn it; `docs/settings.md` has theirs.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Level(NamedTuple):
    """What an environment's usual preset learns, as `bench/levels.py` has measured it.

    Attributes:
        steps: Environment steps of the training.
        mean_return: Of the policies with their likeliest actions; a mean over the seeds.
        half_interval: Half of its 95 % interval.
        seconds: Of processor time that a training takes, with one thread; a median.
        seeds: How many.
    """

    steps: int
    mean_return: float
    half_interval: float
    seconds: float
    seeds: int

    def __str__(self) -> str:
        """Return the level in words."""
        return f"{self.said} after {millions(self.steps)} steps and {self.seconds:,.0f} s, over {self.seeds} seeds"

    @property
    def said(self) -> str:
        """The mean return with half of its interval, as text."""
        return mean_with(self.mean_return, self.half_interval)


def millions(steps: int) -> str:
    """Return a number of steps in millions."""
    return f"{round(steps / 1e6, 2):g} M"


def mean_with(mean: float, half_interval: float) -> str:
    """Return a mean return and half of its interval as text: whole above a thousand, with three places below one."""
    return f"{number_like(mean, mean)} ± {number_like(half_interval, mean)}"


def number_like(value: float, mean: float) -> str:
    """Return a number with as many places as a mean return has."""
    places = 0 if abs(mean) >= 1000 else 3 if abs(mean) < 1 else 1
    return f"{value:,.{places}f}"


_SCALED = {"normalize_observations": True, "normalize_rewards": True}
# One small convolution: on a CPU the network takes nearly all the time.
_BOARD = {
    "total_timesteps": 10_000_000,
    "n_steps": 64,
    "batch_size": 2048,
    "lr": (5e-3, 0.0),
    "ent_coef": 0.01,
    "cnn_channels": (16,),
    "hidden_sizes": (64,),
    "shared_trunk": True,
    "activation": "relu",
}

_LAKE = {
    "num_envs": 64,
    "total_timesteps": 500_000,
    "n_steps": 32,
    "batch_size": 512,
    "lr": (4e-3, 0.0),
    "gamma": 0.999,
    "normalize_rewards": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"num_envs": 64, "batch_size": 256, "lr": (4e-3, 0.0)},
    "Acrobot-v1": {"n_epochs": 10, "lr": (5e-3, 0.0), **_SCALED},
    # Without curiosity no torque schedule of chance reaches the goal, and every return is the same.
    "MountainCar-v0": {
        "num_envs": 64,
        "total_timesteps": 1_000_000,
        "batch_size": 256,
        "n_epochs": 8,
        "gamma": 0.999,
        "ent_coef": 0.01,
        "rnd_coef": 0.3,
        **_SCALED,
    },
    # Of the goal's 100 the way there costs some: the horizon is the whole episode, and small actions are to be found.
    # Fewer epochs, or smaller actions at first (log_std_init -1.2), and some seeds never reach the goal.
    "MountainCarContinuous-v0": {
        "num_envs": 64,
        "n_epochs": 8,
        "batch_size": 256,
        "gamma": 0.9999,
        "gae_lambda": 0.98,
        "log_std_init": -0.7,
        "rnd_coef": 1.0,
        **_SCALED,
    },
    # Costs reach -16 a step: rewards of a unit scale.
    "Pendulum-v1": {
        "num_envs": 32,
        "total_timesteps": 300_000,
        "n_steps": 128,
        "n_epochs": 10,
        "lr": (2e-3, 0.0),
        "gae_lambda": 0.9,
        "max_grad_norm": 5.0,
        "activation": "relu",
        "normalize_rewards": True,
    },
    # Without scaled rewards and short returns some seeds settle for a way that often ends in a hole.
    "FrozenLake-v1": {**_LAKE, "gae_lambda": 0.8, "ent_coef": (0.05, 0.0)},
    # Nothing is learned before the far goal is found by chance; then every arrival has to count.
    "FrozenLake8x8-v1": {**_LAKE, "total_timesteps": 1_500_000, "ent_coef": 0.02},
    "GridWalk-v0": {"total_timesteps": 300_000, "ent_coef": 0.01},
    **{f"MinAtar-{game}-v1": _BOARD for game in ("Asterix", "Freeway", "SpaceInvaders")},
    # The last bricks of a wall need a ball that is aimed. With a smaller entropy bonus some seeds settle too soon.
    "MinAtar-Breakout-v1": {**_BOARD, "batch_size": 512, "hidden_sizes": (128,), "ent_coef": 0.03},
    # It may take 7 M steps until it comes up for air.
    "MinAtar-Seaquest-v1": {**_BOARD, "total_timesteps": 20_000_000},
    # Where much depends on chance, long returns are a poor guide.
    "Snake-v0": {**_BOARD, "total_timesteps": 5_000_000, "gae_lambda": 0.8},
    # Four by four cells leave a convolution little to do; merged tiles are worth up to thousands.
    "Game2048-v0": {
        **_BOARD,
        "total_timesteps": 5_000_000,
        "lr": (1e-3, 0.0),
        "gamma": 0.995,
        "gae_lambda": 0.8,
        "ent_coef": 0.003,
        "cnn_channels": (),
        "hidden_sizes": (1024, 256),
        "normalize_rewards": True,
    },
}

# On a GPU an iteration takes about as long as its gradient steps do in sequence, whatever a minibatch holds.
_LARGE = {
    "num_envs": 4096,
    "total_timesteps": 5_000_000,
    "n_steps": 16,
    "n_epochs": 4,
    "batch_size": 16_384,
    "lr": (8e-3, 0.0),
}
_SHORT = {**_LARGE, "n_steps": 8, "batch_size": 8192}
# Where a good episode takes 100 to 500 steps, which are many iterations of short rollouts.
_LONG = {**_LARGE, "num_envs": 2048, "n_steps": 32}

LARGE_PRESETS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {**PRESETS["CartPole-v1"], **_LONG},
    "Acrobot-v1": {**PRESETS["Acrobot-v1"], **_SHORT, "lr": (5e-3, 0.0)},
    "MountainCar-v0": {
        **PRESETS["MountainCar-v0"],
        **_LONG,
        "total_timesteps": 8_000_000,
        "n_epochs": 8,
        "batch_size": 8192,
    },
    # In rollouts of 8 steps one seed learned to stand still, which costs nothing.
    "MountainCarContinuous-v0": {
        **PRESETS["MountainCarContinuous-v0"],
        **_LONG,
        "batch_size": 8192,
        "lr": (5e-3, 0.0),
    },
    "Pendulum-v1": {**PRESETS["Pendulum-v1"], **_LARGE, "staggered_starts": True},
    "FrozenLake-v1": {
        **PRESETS["FrozenLake-v1"],
        **_LARGE,
        "num_envs": 2048,
        "total_timesteps": 3_000_000,
        "batch_size": 8192,
        "lr": (5e-3, 0.0),
    },
    "FrozenLake8x8-v1": {**PRESETS["FrozenLake8x8-v1"], **_LARGE, "total_timesteps": 8_000_000},
    "GridWalk-v0": {**PRESETS["GridWalk-v0"], **_SHORT},
}

BY_SIZE = {"usual": PRESETS, "large": LARGE_PRESETS}

# Held to bench/results/levels.json by a test.
LEVELS: dict[str, Level] = {
    "CartPole-v1": Level(500_000, 500.0, 0.0, 3.2, 10),
    "Acrobot-v1": Level(500_000, -66.778, 0.842, 7.6, 10),
    "MountainCar-v0": Level(1_000_000, -98.019, 0.161, 14.2, 10),
    "MountainCarContinuous-v0": Level(500_000, 98.185, 0.079, 6.1, 10),
    "Pendulum-v1": Level(300_000, -147.949, 0.958, 3.2, 10),
    "FrozenLake-v1": Level(500_000, 0.74, 0.003, 3.4, 10),
    "FrozenLake8x8-v1": Level(1_500_000, 0.887, 0.002, 13.3, 10),
    "GridWalk-v0": Level(300_000, 0.943, 0.0, 1.9, 10),
    "MinAtar-Asterix-v1": Level(10_000_000, 45.679, 8.276, 773.3, 3),
    "MinAtar-Breakout-v1": Level(10_000_000, 100.443, 32.638, 979.5, 3),
    "MinAtar-Freeway-v1": Level(10_000_000, 67.108, 0.699, 682.5, 3),
    "MinAtar-Seaquest-v1": Level(20_000_000, 121.748, 22.503, 2370.5, 3),
    "MinAtar-SpaceInvaders-v1": Level(10_000_000, 582.984, 451.862, 678.2, 3),
    "Snake-v0": Level(5_000_000, 50.166, 12.418, 428.9, 3),
    "Game2048-v0": Level(5_000_000, 13359.613, 3314.828, 788.9, 3),
}
