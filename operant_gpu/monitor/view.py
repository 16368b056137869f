"""What is known of a run: enough to draw it, whether it is in this process or in files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from operant_gpu.errors import ProcessError, TrainingError

if TYPE_CHECKING:
    from operant_gpu.models.ppo.learner import PPO

Reading = Mapping[str, float]

STATES = ("running", "solved", "finished", "stopped", "failed", "killed")
_LEAST_EPISODES = 100
# Points of a curve that are kept, at most; a sparkline or a picture shows no more.
_POINTS = 2048


class Curve:
    """A function of timesteps, thinned out as it grows."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._every, self._skipped = 1, 0

    def add(self, timesteps: float, value: float) -> None:
        """Add a point; one that goes back in time replaces what was later."""
        while self._points and self._points[-1][0] >= timesteps:
            self._points.pop()
        self._skipped += 1
        if not math.isfinite(value) or self._skipped < self._every:
            return
        self._skipped = 0
        self._points.append((timesteps, value))
        if len(self._points) > _POINTS:
            # Another list, since a thread may be drawing this one.
            self._points = self._points[::2]
            self._every *= 2

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return iter(list(self._points))


@dataclass
class View:
    """A run as it stands.

    Attributes:
        title: Name of the environment.
        folder: The run's directory, if it has one.
        start: Timesteps at which the training began.
        target: Timesteps at which it ends at the latest.
        goal: Mean return at which it ends, or None.
        least_episodes: How many have to end before the goal counts as reached.
        details: What it runs on and how, in a line.
        state: One of `STATES`.
        message: Why, for a run that has failed.
        latest: The last metrics.
        returns: Curve of the mean return.
        best: The greatest mean return so far; minus infinity before the first.
    """

    title: str
    folder: str | None = None
    start: int = 0
    target: int = 0
    goal: float | None = None
    least_episodes: int = _LEAST_EPISODES
    details: str = ""
    state: str = "running"
    message: str = ""
    latest: Reading = field(default_factory=dict)
    returns: Curve = field(default_factory=Curve)
    best: float = -math.inf

    @classmethod
    def of(cls, learner: PPO, **known: Any) -> View:
        """Return the view of a learner."""
        view = cls(learner.env.environment.id, **known)
        view.begin(learner)
        return view

    def begin(self, learner: PPO) -> None:
        """Take what a learner knows of its training, which is under way; its engine is known once it runs."""
        env, processes = learner.env, learner.processes.size
        self.start, self.target, self.state, self.message = learner.start, learner.target, "running", ""
        self.least_episodes = max(_LEAST_EPISODES, processes * env.num_envs)
        several = "" if processes == 1 else f"{processes} processes of "
        machine = f"{env.backend} on {env.device}, {learner.engine} engine"
        self.details = f"{several}{env.num_envs:,} environments, {machine}"

    def add(self, record: Reading) -> None:
        """Take in the metrics of one reading."""
        self.returns.add(record["timesteps"], record["episodic_return"])
        # Of a number and NaN, `max` returns the first.
        self.best = max(self.best, record["episodic_return"])
        self.latest = record

    def end(self, timesteps: int, error: BaseException | None = None) -> None:
        """Note how the training came to its end, after so many timesteps."""
        if isinstance(error, ProcessError | TrainingError):
            self.state, self.message = "failed", str(error)
        elif error is not None and not isinstance(error, KeyboardInterrupt):
            self.state, self.message = "failed", f"{type(error).__name__}: {error}"
        elif self.is_solved:
            self.state = "solved"
        else:
            self.state = "finished" if 0 < self.target <= timesteps else "stopped"

    @property
    def progress(self) -> float:
        """How much of the training is done, in [0, 1]."""
        done = self.latest.get("timesteps", self.start) - self.start
        return min(1.0, max(0.0, done / max(1, self.target - self.start)))

    @property
    def seconds_left(self) -> float | None:
        """How long the training takes yet at its present speed; None before it is known."""
        speed = self.latest.get("sps", 0.0)
        if self.state != "running" or not speed:
            return None
        return max(0.0, (self.target - self.latest["timesteps"]) / speed)

    @property
    def is_solved(self) -> bool:
        """Whether the last 100 episodes reach the goal.

        Of episodes that begin together the first to end are the shortest, and prove nothing: so many as there are
        environments have to end before.
        """
        if self.goal is None or self.latest.get("episodes", 0) < self.least_episodes:
            return False
        return self.latest["episodic_return"] >= self.goal
