"""What others have published of the library's environments, to hold its own levels against.

Of each environment and number of steps: the best of PPO, and the best of any learner that begins from nothing and has
no model of the environment. A figure that took fewer steps counts too, and so does one of pgx's that took twice as
many: at ours its curves are still low. Figures of one run are the rule; their scatter is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from learning_run import Rules, grid_walk_optimum

from operant_gpu.models.presets import millions

LINKS = {
    "zoo": "https://github.com/DLR-RM/rl-baselines3-zoo/blob/22e3ff2/benchmark.md",
    "SLM Lab": "https://github.com/kengz/SLM-Lab/blob/96be393/docs/BENCHMARKS.md",
    "gymnax": "https://github.com/RobertTLange/gymnax-blines/tree/3f029d6/agents",
    "OPEN": "https://github.com/AlexGoldie/rl-learned-optimization/blob/b65037b/rl_optimizer/configs.py",
    "pgx": "https://github.com/sotetsuk/pgx/tree/079b2d7/examples/minatar-ppo/assets",
    "MinAtar": "https://github.com/kenjyoung/MinAtar/blob/4241f24/img/learning_curves.gif",
    "2048-RL": "https://github.com/Corentinjst/2048-RL/tree/adf62ae",
}


def sources_of(targets: Sequence[Target]) -> str:
    """Return links to where targets are from."""
    names = dict.fromkeys(one.source for target in targets for one in (target.ppo, target.other) if one)
    return ",\n".join(f"[{name}]({LINKS[name]})" for name in names)


@dataclass(frozen=True)
class Figure:
    """A mean return that somebody has published.

    Attributes:
        mean: The return; read off a plot where `approximate`.
        source: Key of `LINKS`.
        learner: Which algorithm.
        steps: Environment steps.
    """

    mean: float
    source: str
    learner: str
    steps: int
    approximate: bool = False

    def __str__(self) -> str:
        """Return the figure for a table, with its steps."""
        about = "≈ " if self.approximate else ""
        return f"{about}{self.mean:,g} <small>{self.learner}, {self.source}, {millions(self.steps)}</small>"


@dataclass(frozen=True)
class Target:
    """What there is to be reached with a number of steps.

    Attributes:
        env: Environment of operant_gpu.
        steps: Of the training.
        at: After how many steps, where that is before the training's end.
        ppo: The best of PPO's, if anybody has published one.
        other: The best of other learners', if it is better, or as good in fewer steps, or there is none of PPO's.
        rules: Of MinAtar's games.
        ceiling: The mean return of the best policy, where that can be worked out.
    """

    env: str
    steps: int
    at: int | None = None
    ppo: Figure | None = None
    other: Figure | None = None
    rules: Rules = "minatar"
    ceiling: float | None = None

    @property
    def key(self) -> str:
        """Name of the training that it is read off."""
        rules = "" if self.rules == "minatar" else f", rules of {self.rules}"
        return f"{self.env}, {millions(self.steps)}{rules}"

    @property
    def best(self) -> float | None:
        """The best mean return that others have published."""
        return max((figure.mean for figure in (self.ppo, self.other) if figure), default=None)


def _zoo(mean: float, learner: str, steps: int) -> Figure:
    return Figure(mean, "zoo", learner, steps)


_QR_DQN = _zoo(-69.1, "QR-DQN", 100_000)
_DQN = _zoo(-100.8, "DQN", 120_000)
CLASSIC = (
    Target("CartPole-v1", 100_000, ppo=_zoo(500, "PPO", 100_000), other=_zoo(500, "DQN", 50_000)),
    Target("CartPole-v1", 500_000, ppo=_zoo(500, "PPO", 100_000)),
    Target("Acrobot-v1", 100_000, other=_QR_DQN),
    Target("Acrobot-v1", 500_000, ppo=Figure(-78.9, "gymnax", "PPO", 496_000), other=_QR_DQN),
    Target("Acrobot-v1", 1_000_000, ppo=_zoo(-73.5, "PPO", 1_000_000), other=_QR_DQN),
    Target("MountainCar-v0", 120_000, other=_DQN),
    Target("MountainCar-v0", 1_000_000, ppo=_zoo(-110.4, "PPO", 1_000_000), other=_DQN),
    Target("MountainCarContinuous-v0", 50_000, ppo=_zoo(88.3, "PPO", 20_000), other=_zoo(94.7, "SAC", 50_000)),
    Target("MountainCarContinuous-v0", 500_000, ppo=_zoo(88.3, "PPO", 20_000), other=_zoo(96.7, "ARS", 500_000)),
    Target("Pendulum-v1", 100_000, ppo=_zoo(-172.2, "PPO", 100_000), other=_zoo(-151.3, "TQC", 20_000)),
    Target(
        "Pendulum-v1",
        300_000,
        ppo=_zoo(-172.2, "PPO", 100_000),
        other=Figure(-145.7, "SLM Lab", "CrossQ", 300_000),
    ),
    # By backward induction, of a walker who knows how many steps are left; the policy does not.
    Target("FrozenLake-v1", 500_000, ceiling=0.7442),
    Target("FrozenLake8x8-v1", 1_500_000, ceiling=0.9132),
    Target("GridWalk-v0", 300_000, ceiling=grid_walk_optimum(10)),
)


def _game(name: str, *figures: tuple[int, Figure | None, Figure | None], steps: int = 10_000_000) -> tuple[Target, ...]:
    """Return the targets of a game by its own rules: after how many steps, PPO's and another's."""
    return tuple(
        Target(f"MinAtar-{name}-v1", steps, None if after == steps else after, ppo, other)
        for after, ppo, other in figures
    )


def _plot(mean: float, source: str, learner: str, steps: int) -> Figure:
    return Figure(mean, source, learner, steps, approximate=True)


_5M, _10M, _20M = 5_000_000, 10_000_000, 20_000_000
_SEAQUEST_DQN, _INVADERS_AC = _plot(20, "MinAtar", "DQN", _5M), _plot(185, "MinAtar", "AC(0.8)", _5M)
GAMES = (
    *_game(
        "Asterix",
        (_5M, None, _plot(20, "MinAtar", "AC", _5M)),
        (_10M, _plot(22.5, "pgx", "PPO", _20M), None),
    ),
    *_game(
        "Breakout",
        (_5M, None, _plot(17.5, "MinAtar", "AC(0.8)", _5M)),
        (_10M, _plot(50, "pgx", "PPO", _20M), None),
    ),
    *_game(
        "Freeway",
        (_5M, None, _plot(50, "MinAtar", "DQN", _5M)),
        (_10M, _plot(63.5, "pgx", "PPO", _20M), None),
    ),
    *_game(
        "Seaquest",
        (_5M, None, _SEAQUEST_DQN),
        (_10M, _plot(7.5, "pgx", "PPO", _10M), _SEAQUEST_DQN),
        (_20M, _plot(54, "pgx", "PPO", _20M), None),
        steps=_20M,
    ),
    *_game(
        "SpaceInvaders",
        (_5M, None, _INVADERS_AC),
        (_10M, _plot(145, "pgx", "PPO", _20M), _INVADERS_AC),
    ),
)
# Without sticky actions, and with episodes of a thousand steps at most.
BY_OTHER_RULES = tuple(
    Target(f"MinAtar-{name}-v1", _10M, ppo=Figure(mean, source, "PPO", _10M), rules="gymnax")
    for name, mean, source in (
        ("Asterix", 17.8, "gymnax"),
        ("Breakout", 50.1, "OPEN"),
        ("Freeway", 61.8, "OPEN"),
        ("SpaceInvaders", 167.1, "OPEN"),
    )
)
_3M = 3_000_000
_2048_PPO = Figure(9474, "2048-RL", "MaskablePPO", _3M)
BOARDS = (
    Target("Snake-v0", _5M),
    Target("Game2048-v0", _5M, at=_3M, ppo=_2048_PPO),
    Target("Game2048-v0", _5M, ppo=_2048_PPO),
)
TARGETS = (*CLASSIC, *GAMES, *BY_OTHER_RULES, *BOARDS)
