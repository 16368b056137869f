"""What the commands share."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, cast, get_args

import torch
from rich.console import Console

from operant_gpu.backends.select import has_gpu, spelled
from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig, one_line, one_of
from operant_gpu.files import as_path
from operant_gpu.models import PPO
from operant_gpu.models.config import Size
from operant_gpu.models.presets import LARGE_PRESETS
from operant_gpu.monitor.display import is_lively
from operant_gpu.processes import ALONE, started_rank
from operant_gpu.registry import find, register

FAILED = 1
USER_ERROR = 2
# Of a verification: not everything could be verified here.
INCOMPLETE = 2
INTERRUPTED = 130
# Of a preset; which of them depends on the device if it is "auto".
AnySize = Literal["auto", "usual", "large"]
# How rich prints text without changing it.
_AS_IT_IS: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False, "soft_wrap": True}


def say(console: Console, *lines: str) -> None:
    """Print lines as they are: they may hold paths, which are no markup and are not to be broken."""
    # Where nothing can be printed, such as on a full disk, the work goes on.
    with contextlib.suppress(OSError):
        console.print(*lines, sep="\n", **_AS_IT_IS)


def say_json(console: Console, value: Any) -> None:
    """Print a value as JSON, which programs read: without colours, whatever FORCE_COLOR says."""
    console.print(json.dumps(value, indent=2), **_AS_IT_IS)


def busy(console: Console, text: str) -> contextlib.AbstractContextManager[object]:
    """Show in a terminal, and there alone, that something goes on."""
    return console.status(text) if is_lively(console) else contextlib.nullcontext()


def complain(error: Exception) -> None:
    """Print an error as one line on the standard error, with the process that it is of where there are several."""
    say(Console(stderr=True), f"operant-gpu{f' (rank {rank})' if (rank := started_rank()) else ''}: {one_line(error)}")


class Terminated(SystemExit):
    """The end that SIGTERM asks for."""


class Command(Protocol):
    """A command, with its options as attributes."""

    def run(self, console: Console) -> int:
        """Do it; return the exit status."""


class OfAnEnvironment:
    """A command that takes parameters of an environment.

    Attributes:
        params: They, as they are on the command line, by name.
    """

    # No field of a dataclass, which would be an option of its own.
    params: Mapping[str, str] = MappingProxyType({})


class AsGiven:
    """A command that begins processes of its own.

    Attributes:
        given: The words of the command line.
    """

    # No field of a dataclass, as above.
    given: Sequence[str] = ()


def take_parameters(command: Command, params: dict[str, str]) -> None:
    """Give a command the parameters of its environment.

    Raises:
        InvalidConfig: If it takes none.
    """
    if not isinstance(command, OfAnEnvironment):
        name = type(command).__name__.lower()
        raise InvalidConfig(f"--env.{next(iter(params))}", f"{name} takes no parameters of an environment")
    command.params = params


def environment_id(name: str) -> str:
    """Return the id of an environment that is named by it, or as `file.py:NAME` or `module:NAME`, which is imported.

    Raises:
        InvalidConfig: If there is none.
    """
    source, colon, attribute = name.rpartition(":")
    if name.endswith(".py"):
        raise InvalidConfig("env", f"expected FILE.py:NAME, with the name of an Environment in the file, got {name!r}")
    if not colon:
        return find(name).id
    module = _imported(source)
    definition = getattr(module, attribute, None)
    if not isinstance(definition, Definition):
        known = [key for key, value in vars(module).items() if isinstance(value, Definition)]
        message = f"{source!r} has no environment {attribute!r}; it has {', '.join(known) or 'none'}"
        raise InvalidConfig("env", message)
    return register(definition).id


def _imported(source: str) -> object:
    try:
        if not source.endswith(".py"):
            return importlib.import_module(source)
        path = as_path("env", source).resolve()
        # As `python file.py` would find what it imports.
        sys.path.insert(0, str(path.parent))
        # Under a name that no other module has.
        name = f"operant_gpu_file_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    except Terminated:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidConfig("env", f"cannot import {source!r}: {type(error).__name__}: {error}") from error


def load(path: Path, env: str | None, device: str) -> PPO:
    """Return the learner in a checkpoint, or in the newest that can be read of a run, as one of this process alone.

    Args:
        path: The file, or the run's directory.
        env: The environment's definition, if it is not one of the library's; see `environment_id`.
        device: Where to.
    """
    id = None if env is None else environment_id(env)
    learner = PPO.load(path, device=device, processes=ALONE)
    if id not in (None, learner.env.environment.id):
        raise InvalidConfig("env", f"{str(path)!r} is of {learner.env.environment.id}, got {id}: leave --env out")
    use_one_thread(learner.env.device)
    return learner


def preset_size(id: str, device: str, size: str = "auto", num_envs: int | None = None) -> tuple[Size, str]:
    """Return which preset of an environment to take, and why.

    Args:
        id: Environment that has a preset.
        device: As `VecEnv` takes it.
        size: "usual", "large", or "auto": the large one on a GPU, where there is one and it is not for many more
            environments.
        num_envs: How many environments there are to be; None for as many as the preset has.

    Raises:
        InvalidConfig: If the size is none of these.
    """
    size = one_of("size", size, get_args(AnySize))
    if size != "auto":
        return cast(Size, size), "--size asks for it"
    if not (has_gpu(find(id)) if spelled(device) == "auto" else spelled(device) != "cpu"):
        return "usual", "the training is on a CPU"
    if id not in LARGE_PRESETS:
        return "usual", f"{id} has no large one"
    many = LARGE_PRESETS[id]["num_envs"]
    if num_envs is not None and num_envs < many // 2:
        return "usual", f"{num_envs:,} environments are less than half of the large one's {many:,}"
    return "large", "the training is on a GPU"


def use_one_thread(device: torch.device) -> None:
    """Let PyTorch compute in one thread on a CPU.

    Networks this small gain nothing from threads, and threads that wait for each other spin: on a machine with other
    work that made training ten times slower.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings as lines of text on the standard error, without a place in the source."""

    def show(message: Warning | str, *_: object) -> None:
        say(Console(stderr=True), f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield
