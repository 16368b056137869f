"""Trading on a series of prices, which all environments share as a table; `docs/tables_and_metrics.md` explains it.

The prices swing around a mean that drifts. The policy sees how far they are from their recent mean, and holds one unit,
none, or owes one. It learns on one series and is judged on another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from operant_gpu import Environment, register
from operant_gpu.arrays import length, lookup
from operant_gpu.lang import Table, jit, tl
from operant_gpu.metrics import Max, Mean, Sum
from operant_gpu.models import PPO, PPOConfig, evaluate
from operant_gpu.random import integers

# Columns of the table.
PRICE, MEAN = tl.constexpr(0), tl.constexpr(1)
# Of an episode.
DAYS = tl.constexpr(250)


class State(NamedTuple):
    day: tl.int32
    held: tl.float32  # 1, 0, or -1 of what is owed
    wealth: tl.float32
    peak: tl.float32


class Params(NamedTuple):
    fee: float = 0.05  # for each unit bought or sold


class Tables(NamedTuple):
    prices: Table(tl.float32, (None, 2))


class Metrics(NamedTuple):
    profit: Sum
    fees: Sum
    held: Mean
    drawdown: Max


@jit
def reset(rng, params, tables):
    day = integers(rng, 0, 0, length(tables.prices) - DAYS)
    return State(day, 0.0, 0.0, 0.0)


@jit
def step(state, action, rng, params, tables):
    held = (action - 1).to(tl.float32)
    fees = params.fee * tl.abs(held - state.held)
    tomorrow = lookup(tables.prices, state.day + 1, PRICE)
    profit = held * (tomorrow - lookup(tables.prices, state.day, PRICE)) - fees
    wealth = state.wealth + profit
    peak = tl.maximum(state.peak, wealth)
    reported = Metrics(profit=profit, fees=fees, held=tl.abs(held), drawdown=peak - wealth)
    return State(state.day + 1, held, wealth, peak), profit, False, reported


@jit
def observe(state, params, tables):
    # What is seen is known today: the mean is that of the days before.
    return lookup(tables.prices, state.day, PRICE) - lookup(tables.prices, state.day, MEAN), state.held


Trading = Environment(
    id="Trading-v0",
    state=State,
    params=Params,
    tables=Tables,
    metrics=Metrics,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=spaces.Box(-np.inf, np.inf, (2,)),
    action_space=spaces.Discrete(3),
    max_episode_steps=DAYS.value,
)

# ----------------------------------------------------------------------------------------------------------------------


def series(seed: int, days: int = 5_000, window: int = 20) -> np.ndarray:
    """Return prices that swing around a drifting mean, and the mean of the days up to each, (days, 2)."""
    rng = np.random.default_rng(seed)
    drift, swing = 0.02 * rng.normal(size=days + window).cumsum(), np.zeros(days + window)
    for day in range(1, days + window):
        swing[day] = 0.9 * swing[day - 1] + 0.2 * rng.normal()
    prices = 100.0 + drift + swing
    means = np.convolve(prices, np.full(window, 1 / window), mode="valid")[1:]
    return np.stack([prices[window:], means], axis=1)


def main(total_timesteps: int = 400_000) -> float:
    """Train PPO on one series; return the mean profit of a year on another."""
    config = PPOConfig(num_envs=64, n_steps=64, batch_size=1024, lr=(3e-3, 0.0), total_timesteps=total_timesteps)
    learner = PPO(register(Trading)(config.num_envs, prices=series(seed=0)), config).learn()
    judged = evaluate(learner, episodes=200, params={"prices": series(seed=1)})
    for name, values in judged.metrics.items():
        print(f"{name:>9} of a year: {values.mean():8.3f}")
    return judged.mean


if __name__ == "__main__":
    main()
