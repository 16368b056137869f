"""Settings of PPO: typed, checked before anything is allocated, from presets, TOML files and keyword arguments."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np
import tomli_w

from operant_gpu.errors import InvalidConfig, as_integer, meant, nearest, one_of
from operant_gpu.files import as_path, write_whole
from operant_gpu.hyperparameters import Hyperparameters
from operant_gpu.models.presets import BY_SIZE, LARGE_PRESETS, PRESETS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Activation = Literal["tanh", "relu", "elu", "silu", "gelu"]
Engine = Literal["auto", "fused", "graph", "eager"]
OnFault = Literal["stop", "skip"]
Size = Literal["usual", "large"]
# What a hyperparameter may be: a number; or a line over the training, from its usual value to 0, or from start to end.
Schedule = float | Literal["linear"] | tuple[float, float]
# Of one iteration: numbers of samples have 31 bits in kernels, and those of gradient steps 20 where faults are noted.
_MOST_STEPS, _MOST_GRADIENT_STEPS = 2**31 - 1, 2**20 - 1
# What stands for None in TOML, which has no such value.
_NONE = "none"
_LINEAR = "linear"
# Settings that are no more, and what to write instead.
GONE = {"anneal_lr": "lr=0.004 is constant, lr=(0.004, 0.0) falls to 0 over the training (--lr 0.004 0)"}
# Where nobody has chosen another, and an iteration has so many.
_BATCH_SIZE = 512
_NOTHING: Mapping[str, Any] = {}
_KINDS = {int: "an integer", float: "a number", bool: "True or False", str: "text"}

Constructor = TypeVar("Constructor", bound=Callable[..., None])


class _Rule(NamedTuple):
    expected: str
    holds: Callable[[Any], bool]


_POSITIVE = _Rule("a number above 0", lambda value: value > 0)
_NON_NEGATIVE = _Rule("a number of at least 0", lambda value: value >= 0)
_FRACTION = _Rule("a number in [0, 1]", lambda value: 0 <= value <= 1)
_COUNT = _Rule("an integer of at least 1", lambda value: value >= 1)
_WIDTHS = _Rule("widths above 0", lambda value: all(width > 0 for width in value))
_SEED = _Rule("an integer in [0, 2**63)", lambda value: 0 <= value < 2**63)
# As many as a GPU launches along its second axis.
_EPOCHS = _Rule("an integer in [1, 65535]", lambda value: 1 <= value <= 65_535)
_ANY = _Rule("anything", lambda value: True)


def _setting(default: Any, rule: _Rule = _ANY) -> Any:
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of proximal policy optimization (Schulman et al., 2017).

    The defaults suit an easy task with 128 environments. `for_env` returns tuned ones for the library's environments.

    A `Schedule` is a number, or changes evenly over a training: "linear" from its usual value (the preset's, or the
    default) to 0, and (start, end) from one number to another. Write to `PPO.hyperparameters` while a policy learns.

    Raises:
        InvalidConfig: Naming the field that makes no sense, and why.
    """

    num_envs: int = _setting(128, _COUNT)
    """Number of environments that the command line makes, in each process if there are several."""
    total_timesteps: int = _setting(500_000, _COUNT)
    """Environment steps after which training ends."""
    n_steps: int = _setting(32, _COUNT)
    """Steps of each environment in one iteration."""
    n_epochs: int = _setting(4, _EPOCHS)
    """Passes over the collected steps in one iteration."""
    batch_size: int | None = _setting(None, _COUNT)
    """Least number of steps in a minibatch; with a GRU, whole sequences of `n_steps` of some environments. None stands
    for 512, or for all steps of an iteration that has fewer."""
    lr: Schedule = _setting((2.5e-3, 0.0), _POSITIVE)
    """Learning rate of Adam."""
    gamma: Schedule = _setting(0.99, _FRACTION)
    """Discount factor."""
    gae_lambda: Schedule = _setting(0.95, _FRACTION)
    """Weight of longer returns in the advantages."""
    clip_eps: Schedule = _setting(0.2, _POSITIVE)
    """How far the probability ratio may move from 1 in one iteration."""
    vf_clip_eps: Schedule | None = _setting(None, _POSITIVE)
    """How far a value may move in one iteration; no limit if None."""
    vf_coef: Schedule = _setting(0.5, _NON_NEGATIVE)
    """Weight of the value loss, half the mean squared error."""
    ent_coef: Schedule = _setting(0.0, _NON_NEGATIVE)
    """Weight of the entropy bonus."""
    max_grad_norm: Schedule = _setting(0.5, _POSITIVE)
    """Norm to which gradients are clipped."""
    target_kl: Schedule | None = _setting(None, _POSITIVE)
    """An iteration stops learning when approx_kl of a minibatch exceeds 1.5 times this; never if None."""
    normalize_advantages: bool = _setting(True)
    """Whether the advantages of each minibatch are shifted and scaled to mean 0 and deviation 1."""
    normalize_observations: bool = _setting(False)
    """Whether observations are shifted and scaled by running statistics, and clipped to [-10, 10]."""
    normalize_rewards: bool = _setting(False)
    """Whether rewards are divided by the running deviation of the discounted return, and clipped to [-10, 10]."""
    rnd_coef: Schedule = _setting(0.0, _NON_NEGATIVE)
    """Weight of the curiosity bonus of random network distillation; 0 for none."""
    hidden_sizes: tuple[int, ...] = _setting((64, 64), _WIDTHS)
    """Widths of the hidden layers."""
    activation: Activation = _setting("tanh")
    """Nonlinearity after each hidden layer."""
    shared_trunk: bool = _setting(False)
    """Whether actor and critic share all layers but their last."""
    cnn_channels: tuple[int, ...] = _setting((16, 32), _WIDTHS)
    """Channels of the 3x3 convolutions before the hidden layers, for observations (channels, height, width)."""
    gru_size: int = _setting(0, _NON_NEGATIVE)
    """Width of a GRU after the hidden layers, which remembers within an episode; 0 for none."""
    log_std_init: float = _setting(0.0)
    """Logarithm of the initial standard deviation of continuous actions, in the policy's units."""
    scale_actions: bool = _setting(True)
    """Whether the policy's -1 and 1 stand for the bounds of a Box of actions, if both are finite. The environment gets
    the scaled actions."""
    staggered_starts: bool = _setting(False)
    """Whether each environment's first episode begins at a random step before the time limit. Then thousands of
    environments do not all reach the limit in the same step."""
    use_amp: bool = _setting(False)
    """Whether networks compute in bfloat16 in the operations for which autocast allows it."""
    compile: bool = _setting(False)
    """Whether the loss of a minibatch, with the network in it, goes through `torch.compile`."""
    engine: Engine = _setting("auto")
    """"fused" runs rollout and update in kernels of this library, for an `MLPPolicy`; "graph" captures PyTorch's
    kernels as CUDA graphs; "eager" does neither. "auto" takes the first of these that works."""
    on_fault: OnFault | None = _setting(None)
    """What to do with steps that go wrong (a number is not finite, an action is refused) in environments made with
    `debug="faults"`, as the command line then makes them. "stop" and None end the training. "skip" leaves the
    environment out of the iteration, and it begins a new episode afterwards."""
    seed: int = _setting(0, _SEED)
    """Seed of initialisation, environments, sampling and shuffles."""
    log_interval: int = _setting(1, _COUNT)
    """Iterations between two readings of the metrics. Each reading waits for the device."""
    checkpoint_dir: str | None = _setting(None)
    """Folder for checkpoints; none are written if None."""
    checkpoint_interval: int = _setting(100, _COUNT)
    """Iterations between two checkpoints."""
    checkpoint_keep: int = _setting(3, _COUNT)
    """How many of the newest checkpoints to keep."""

    def __post_init__(self) -> None:
        hints = _hints(cast(Any, type(self)))
        for setting in fields(self):
            name, rule, value = setting.name, setting.metadata["rule"], getattr(self, setting.name)
            if name in Hyperparameters._fields and isinstance(value, str | tuple | list):
                value = _checked_schedule(name, value, rule)
            else:
                value = _checked(name, value, hints[name], rule)
            object.__setattr__(self, name, value)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.gru_size and self.n_steps < 2:
            message = "a GRU learns nothing from sequences of one step: raise it, or set gru_size=0"
            raise InvalidConfig("n_steps", message)
        if self.batch_size is None:
            return
        if self.normalize_advantages and self.batch_size < 2:
            message = "one step has no deviation to normalize by: raise it, or set normalize_advantages=False"
            raise InvalidConfig("batch_size", message)
        if self.gru_size and self.batch_size < self.n_steps:
            message = f"{self.batch_size} steps hold no whole sequence of n_steps={self.n_steps} for the GRU: raise it"
            raise InvalidConfig("batch_size", message)

    def fitted(self, num_envs: int, usual: Mapping[str, Any] = _NOTHING) -> PPOConfig:
        """Return the settings for a number of environments, with a `batch_size`, and a start where a line has none.

        Args:
            num_envs: How many there are.
            usual: Settings that nobody has chosen. Their `batch_size` gives way where an iteration has fewer steps, and
                "linear" begins at their values.

        Raises:
            InvalidConfig: If an iteration has fewer steps than a minibatch, or more steps or gradient steps than there
                are numbers for.
        """
        steps = self.n_steps * num_envs
        if steps > _MOST_STEPS:
            collected = f"{self.n_steps} x {num_envs} = {steps:,} steps of an iteration"
            message = f"expected at most {_MOST_STEPS:,}, got {collected}: lower it or num_envs"
            raise InvalidConfig("n_steps", message)
        batch_size = self.batch_size or _BATCH_SIZE
        if self.batch_size in (None, usual.get("batch_size")):
            if self.normalize_advantages and steps < 2:
                message = "an iteration of one step has no deviation to normalize by: raise it or num_envs, or set "
                raise InvalidConfig("n_steps", message + "normalize_advantages=False")
            # With a GRU, at least one whole sequence.
            batch_size = min(max(batch_size, self.n_steps if self.gru_size else 1), steps)
        minibatches = max(1, steps // batch_size)
        if self.n_epochs * minibatches > _MOST_GRADIENT_STEPS:
            message = (
                f"expected at most {_MOST_GRADIENT_STEPS:,} gradient steps an iteration, got {self.n_epochs} epochs of "
                f"{minibatches:,} minibatches: raise it, or lower n_epochs"
            )
            raise InvalidConfig("batch_size", message)
        if steps < batch_size:
            collected = f"the {self.n_steps} x {num_envs} = {steps} steps of an iteration"
            message = f"{batch_size} is more than {collected}: lower it, or raise n_steps or num_envs"
            raise InvalidConfig("batch_size", message)
        return replace(self, batch_size=batch_size).begun(usual)

    def begun(self, usual: Mapping[str, Any]) -> PPOConfig:
        """Return the settings with (start, end) for each "linear", from its value among the usual ones or the defaults.

        Raises:
            InvalidConfig: If there is no value, or it is 0.
        """
        lines = [name for name in Hyperparameters._fields if getattr(self, name) == _LINEAR]
        begun: dict[str, Any] = {}
        for name in lines:
            start = usual.get(name, getattr(type(self), name))
            start = start[0] if isinstance(start, tuple) else start
            if not start:
                message = f"'linear' falls from the usual value to 0, and that is {start}: give (start, end)"
                raise InvalidConfig(name, message)
            begun[name] = start, 0.0
        return replace(self, **begun) if begun else self

    @classmethod
    def for_env(cls, id: str, *, size: Size = "usual", **overrides: Any) -> PPOConfig:
        """Return the tuned settings for an environment of the library.

        Policies of the usual ones have these mean returns, with their likeliest actions and half of the 95 % interval
        of the mean over the seeds, after a training of so many steps and so many seconds on one core of a CPU (an Intel
        Xeon of 2023):

        - CartPole-v1: 500.0 ± 0.0 after 0.5 M steps and 3 s, over 10 seeds
        - Acrobot-v1: -66.8 ± 0.8 after 0.5 M steps and 8 s, over 10 seeds
        - MountainCar-v0: -98.0 ± 0.2 after 1 M steps and 14 s, over 10 seeds
        - MountainCarContinuous-v0: 98.2 ± 0.1 after 0.5 M steps and 6 s, over 10 seeds
        - Pendulum-v1: -147.9 ± 1.0 after 0.3 M steps and 3 s, over 10 seeds
        - FrozenLake-v1: 0.740 ± 0.003 after 0.5 M steps and 3 s, over 10 seeds
        - FrozenLake8x8-v1: 0.887 ± 0.002 after 1.5 M steps and 13 s, over 10 seeds
        - GridWalk-v0: 0.943 ± 0.000 after 0.3 M steps and 2 s, over 10 seeds
        - MinAtar-Asterix-v1: 45.7 ± 8.3 after 10 M steps and 773 s, over 3 seeds
        - MinAtar-Breakout-v1: 100.4 ± 32.6 after 10 M steps and 980 s, over 3 seeds
        - MinAtar-Freeway-v1: 67.1 ± 0.7 after 10 M steps and 682 s, over 3 seeds
        - MinAtar-Seaquest-v1: 121.7 ± 22.5 after 20 M steps and 2,370 s, over 3 seeds
        - MinAtar-SpaceInvaders-v1: 583.0 ± 451.9 after 10 M steps and 678 s, over 3 seeds
        - Snake-v0: 50.2 ± 12.4 after 5 M steps and 429 s, over 3 seeds
        - Game2048-v0: 13,360 ± 3,315 after 5 M steps and 789 s, over 3 seeds

        Args:
            id: Such as "Pendulum-v1".
            size: "usual" is for a CPU: some 64 environments and many small gradient steps. "large" is for a GPU:
                thousands of environments and few large steps; not every environment has it.
            overrides: Fields to set differently.

        Raises:
            InvalidConfig: If there is no such preset for the environment, or a field does not exist or makes no sense.
        """
        presets = BY_SIZE[one_of("size", size, tuple(BY_SIZE))]
        if not isinstance(id, str) or id not in PRESETS:
            message = f"there is no preset for {id!r}; {nearest(id, PRESETS)}presets: {', '.join(PRESETS)}"
            raise InvalidConfig("id", f"{message}. PPOConfig() has defaults")
        if id not in presets:
            message = f"{id} has no large preset, only the usual one; large presets: {', '.join(LARGE_PRESETS)}"
            raise InvalidConfig("size", message)
        # Lines begin at the values of this preset: later nothing tells which it was.
        return cls(**{**presets[id], **overrides}).begun(presets[id])

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], base: PPOConfig | None = None) -> PPOConfig:
        """Read settings from a TOML file of `field = value` lines; "none" stands for None.

        Args:
            path: The file.
            base: Settings for the fields that the file does not name; the defaults if None.

        Raises:
            InvalidConfig: If the file can't be read, is not TOML, or a field does not exist or makes no sense.
        """
        path = as_path("config", path)
        if base is not None and not isinstance(base, cls):
            raise InvalidConfig("base", f"expected a {cls.__name__}, got {base!r}")
        try:
            if path.exists() and not path.is_file():
                raise OSError("it is no regular file")
            # With or without the mark that some editors put first.
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidConfig("config", f"cannot read settings from {os.fspath(path)!r}: {error}") from error
        hints = _hints(cast(Any, cls))
        for name, value in values.items():
            if _is_none(value) and type(None) in get_args(hints.get(name)):
                values[name] = None
        return replace(base or cls(), **values)

    def to_toml(self, path: str | os.PathLike[str]) -> None:
        """Write all settings to a TOML file, None as "none": read upon any others, it gives these.

        Raises:
            InvalidConfig: If it cannot be written.
        """
        values = {name: _NONE if value is None else value for name, value in asdict(self).items()}
        if _is_none(self.checkpoint_dir):
            # A folder of this name.
            values["checkpoint_dir"] = f"./{self.checkpoint_dir}"
        try:
            write_whole(as_path("path", path), tomli_w.dumps(values))
        except OSError as error:
            raise InvalidConfig("path", f"cannot write settings to {os.fspath(path)!r}: {error}") from error


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """Return the types of the fields; to read them takes longer than all checks."""
    return get_type_hints(cls)


def refuse_unknown(init: Constructor, message: Callable[[str, Any], str]) -> Constructor:
    """Return a constructor that raises `InvalidConfig` for an argument by a name that it does not have.

    Args:
        init: The constructor.
        message: From the argument's name and value.
    """
    known = inspect.signature(init).parameters

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **settings: Any) -> None:
        for name, value in settings.items():
            if name not in known:
                raise InvalidConfig(name, message(name, value))
        init(self, *args, **settings)

    return checked  # type: ignore[return-value]


def unknown_setting(name: str) -> str:
    """Return what to say of a name that no setting has."""
    if name in GONE:
        return f"it is no setting any more: {GONE[name]}"
    known = [setting.name for setting in fields(PPOConfig)]
    return f"unknown setting of PPO; {meant(name, known)}settings: {', '.join(known)}"


def _refuse_change(config: PPOConfig, name: str, value: Any) -> None:
    """Say how settings are changed, which are fixed."""
    if name not in (setting.name for setting in fields(config)):
        raise InvalidConfig(name, unknown_setting(name))
    advice = f"make others with dataclasses.replace(config, {name}={value!r})"
    if name in Hyperparameters._fields:
        advice += f"; while a policy learns, write learner.hyperparameters.{name} = {value!r}"
    raise InvalidConfig(name, f"settings stay as they were made: {advice}")


# Not a metaclass: tools read the signature of the dataclass. Nor in its body, where `frozen` refuses the second.
PPOConfig.__init__ = refuse_unknown(PPOConfig.__init__, lambda name, value: unknown_setting(name))  # type: ignore[method-assign]
PPOConfig.__setattr__ = _refuse_change  # type: ignore[method-assign, assignment]


def _is_none(value: object) -> bool:
    """Tell whether a value in a file stands for None."""
    return isinstance(value, str) and value.lower() == _NONE


def _checked(name: str, value: Any, hint: Any, rule: _Rule) -> Any:
    """Return the value in the type of the field, or raise `InvalidConfig` unless it keeps to its rule."""
    value = _checked_type(name, value, hint)
    if value is not None and not rule.holds(value):
        raise InvalidConfig(name, f"expected {rule.expected}, got {value!r}")
    return value


def _checked_schedule(name: str, value: Any, rule: _Rule) -> Any:
    """Return "linear", or a start and an end that keep to a rule; the end, which is never reached, may be 0."""
    if isinstance(value, str) and value.lower() == _LINEAR:
        return _LINEAR
    if isinstance(value, str) or len(value) != 2:
        raise InvalidConfig(name, f"expected a number, 'linear' or (start, end), got {value!r}")
    try:
        start, end = (_checked_type(name, one, float) for one in value)
    except InvalidConfig as error:
        raise InvalidConfig(name, f"{error.args[1]} in {value!r}") from error
    if not rule.holds(start) or not (end == 0 or rule.holds(end)):
        raise InvalidConfig(
            name, f"expected a start and an end, which may be 0, that are {rule.expected}, got {value!r}"
        )
    return start, end


def _checked_type(name: str, value: Any, hint: Any) -> Any:
    """Return the value in the type of the field, or raise `InvalidConfig`."""
    if isinstance(value, np.generic):
        value = value.item()
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        return one_of(name, value, choices)
    if type(None) in choices and value is None:
        return None
    if choices and get_origin(hint) is not tuple:
        # What else a hyperparameter may be has been dealt with.
        return _checked_type(name, value, choices[0])
    if get_origin(hint) is tuple:
        widths = [as_integer(item) for item in value] if isinstance(value, tuple | list) else [None]
        if None in widths:
            raise InvalidConfig(name, f"expected a tuple of integers, got {value!r}")
        return tuple(widths)
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    given, accepted = value, (float, int) if hint is float else (hint,)
    if hint is int:
        value = as_integer(given)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, accepted):
        raise InvalidConfig(name, f"expected {_KINDS[hint]}, got {given!r}")
    if hint is int and abs(value) >= 2**63:
        raise InvalidConfig(name, f"expected an integer below 2**63, got {value!r}")
    if hint is float and not abs(value) <= sys.float_info.max:
        raise InvalidConfig(name, f"expected a finite number, got {value!r}")
    return hint(value)
