"""Search a game for its highest return without learning: play at random, keep the best, copy them onto the rest.

A beam search: all environments take a few random legal actions, the share of them with the highest return so far is
kept, and `env.branch` copies these onto all. Copies draw their own chance from there on (`new_streams=True`), or they
would see the same. Environments whose episode has ended wait, and lose to any that goes on.

The best return is an upper kind of figure. The search looks at what chance brought and goes on from the lucky draws,
which a policy in a game under way cannot do: it has to take each draw as it comes. Nothing here plays the next game.

    python examples/search.py --env MinAtar-Breakout-v1 --rows 4096
"""

from __future__ import annotations

import argparse
import time

import torch

import operant_gpu
from operant_gpu import AutoresetMode, Snapshot, VecEnv


def search(env: VecEnv, steps: int, each: int = 2, keep: float = 0.25) -> Snapshot:
    """Return the row that had the highest return, as it was then; its `clock["episode_return"]` tells it.

    Args:
        env: In DISABLED mode, and reset.
        steps: Steps that an episode can have at most.
        each: Random actions between two selections.
        keep: Share of the rows that are copied onto all.
    """
    generator = torch.Generator(env.device).manual_seed(0)
    rows, kept = torch.arange(env.num_envs, device=env.device), max(1, int(keep * env.num_envs))
    best, highest = env.snapshot([0]), -torch.inf
    for _ in range(0, steps, each):
        env.rollout(each)
        now = env.snapshot()
        returns, ended = now.clock["episode_return"], now.clock["ended"]
        row = int(returns.argmax())
        if float(returns[row]) > highest:
            best, highest = now[[row]], float(returns[row])
        going = int((~ended).sum())
        if not going:
            break
        # Of equal returns no row is to come first for its place.
        shuffled = torch.randperm(env.num_envs, generator=generator, device=env.device)
        scores = returns.masked_fill(ended, -torch.inf)[shuffled]
        parents = shuffled[scores.topk(min(kept, going)).indices]
        env.branch(parents[rows % len(parents)], new_streams=True)
    return best


def random_play(env: VecEnv, steps: int, each: int = 2) -> tuple[float, float]:
    """Return the mean return of episodes of random play, and the highest of all, with an episode after the other.

    Args:
        env: In DISABLED mode, and reset.
        steps: Steps of each row. Episodes that they cut off count for the highest return only, if others ended.
        each: Random actions before episodes that ended begin anew.
    """
    total, count, highest = 0.0, 0, -torch.inf
    for _ in range(0, steps, each):
        env.rollout(each)
        clock = env.snapshot().clock
        returns, ended = clock["episode_return"], clock["ended"]
        total, count = total + float(returns[ended].sum()), count + int(ended.sum())
        highest = max(highest, float(returns.max()))
        env.reset(options={"reset_mask": ended})
    return (total / count if count else float(returns.mean())), highest


def main(env_id: str, rows: int, steps: int, seed: int = 0) -> float:
    """Play at random, search, print both; return the best return that the search found."""
    env = operant_gpu.make(env_id, rows, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=seed)
    mean, highest = random_play(env, steps)
    env.reset(seed=seed)
    begin = time.perf_counter()
    best = search(env, steps)
    seconds = time.perf_counter() - begin
    found, length = float(best.clock["episode_return"]), int(best.clock["elapsed"])
    print(f"{env_id}, {rows:,} rows, {steps:,} steps each")
    print(f"random play: mean return {mean:,.1f}, best {highest:,.0f}")
    # All rows are in the same step, but those that have ended.
    rate = rows * int(env.snapshot().clock["elapsed"].max()) / seconds
    print(f"search: best return {found:,.0f}, after {length:,} steps; {seconds:.1f} s, {rate:,.0f} steps/s")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="Game2048-v0", help="id of the environment (Game2048-v0)")
    parser.add_argument("--rows", type=int, default=4_096, help="environments to search with (4096)")
    parser.add_argument("--steps", type=int, default=3_000, help="most steps of an episode (3000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the environments (0)")
    arguments = parser.parse_args()
    main(arguments.env, arguments.rows, arguments.steps, arguments.seed)
