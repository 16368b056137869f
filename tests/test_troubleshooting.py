"""Messages that docs/troubleshooting.md shows are those that the library prints."""

from __future__ import annotations

import ast
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from here import ROOT

pytest.importorskip("triton", reason="some messages are of Triton's backend")

import operant_gpu
from operant_gpu.backends import compilations, disk_cache, select
from operant_gpu.backends.cpp import compiler
from operant_gpu.backends.failures import failure
from operant_gpu.backends.triton import launching, update
from operant_gpu.cli import main
from operant_gpu.errors import OperantError
from operant_gpu.mlp import MLPLayout
from operant_gpu.models import PPO, MLPPolicy, PPOConfig
from operant_gpu.monitor import Run
from operant_gpu.spaces import action_layout
from operant_gpu.vector.actions import raise_helpless

PAGE = ROOT / "docs" / "troubleshooting.md"
CPU = torch.device("cpu")


def shown() -> list[str]:
    """Return the messages of the page, each in one line."""
    return [" ".join(text.split()) for text in re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.M)]


def cartpole(num_envs: int = 4, **settings: Any) -> operant_gpu.VecEnv:
    return operant_gpu.make("CartPole-v1", num_envs, device="cpu", **settings)


def stepped(actions: torch.Tensor) -> None:
    env = cartpole()
    env.reset(seed=0)
    env.step(actions)
    env.check()


def learner(**settings: Any) -> PPO:
    return PPO(cartpole(8), PPOConfig(num_envs=8, n_steps=8, **settings))


def too_many_episodes() -> None:
    env = cartpole()
    env.reset(seed=0)
    state = env.state_dict()
    state["columns"]["episode"].fill_(-(2**31))
    env.load_state_dict(state)
    env.check()


def closed() -> None:
    env = cartpole()
    env.close()
    env.reset()


def kept() -> None:
    env, rows = cartpole(debug=True), []
    env.reset(seed=0)
    for _ in range(4):
        rows.append(env.step(torch.zeros(4, dtype=torch.int32))[0])


def stored() -> None:
    env = cartpole(1_000_000)
    env.reset(seed=0)
    env.rollout(10_000_000, "random", out=["obs"])


def a_network_in_a_rollout() -> None:
    env = cartpole()
    env.reset(seed=0)
    env.rollout(4, torch.nn.Linear(4, 2))


def not_a_number() -> None:
    one = learner()
    one.learn(128, callback=lambda metrics: one.env.state.theta[3:4].fill_(float("nan")) is not None)


def a_fault() -> None:
    one = PPO(cartpole(8, debug="faults"), PPOConfig(num_envs=8, n_steps=8))
    one.learn(128, callback=lambda metrics: one.env.state.theta[3:4].fill_(float("nan")) is not None)


def cut() -> None:
    one = learner().learn(64)
    one.save("whole.pt")
    content = Path("whole.pt").read_bytes()
    Path("cut.pt").write_bytes(content[: len(content) // 2])
    PPO.load("cut.pt")


def in_use() -> None:
    with Run(learner(), "runs/mine") as run:
        run.learner.learn(64, callback=run)
        Run(learner(), "runs/mine").__enter__()


def again() -> None:
    with Run(learner(), "runs/mine") as run:
        run.learner.learn(64, callback=run)
    with Run(learner(), "runs/mine"):
        pass


def without_numba(patch: pytest.MonkeyPatch) -> str:
    patch.setitem(sys.modules, "numba", None)
    missing = select._missing.__wrapped__
    patch.setattr(select, "_missing", missing)
    return str(cartpole().slow_path)


def not_numba(patch: pytest.MonkeyPatch) -> str:
    patch.setitem(sys.modules, "numba", None)
    return str(select._missing.__wrapped__("numba"))


def no_compiler(patch: pytest.MonkeyPatch) -> None:
    patch.delenv("CXX", raising=False)
    patch.setenv("PATH", "")
    compiler.compiler()


def nothing_is_kept(patch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    patch.setenv("OPERANT_GPU_CACHE", "file")
    disk_cache.keep("cpp", "key", ".so", b"")


def misfit(device: str) -> str:
    layout = MLPLayout(4, (64, 64), 2, "tanh", False, False)
    mlp = SimpleNamespace(parameters=SimpleNamespace(device=torch.device(device)), layout=layout, precision="tf32")
    return str(update.find_misfit(mlp, None, None, None))


def no_room(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(update, "find_fit", lambda *asked: None)
    patch.setattr(update, "_shared_memory", lambda device: 101_376)
    return misfit("cpu")


def before_ampere(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    return misfit("cuda:0")


def compiled(patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.INFO, "operant_gpu"), compilations.told("CartPole-v1", lambda: "a processor"):
        compilations.note()
    return str(caplog.messages[-1])


def answered(*arguments: str) -> Callable[[pytest.CaptureFixture[str]], str]:
    def answer(capsys: pytest.CaptureFixture[str]) -> str:
        assert main(list(arguments)) == 2
        return capsys.readouterr().err.removeprefix("operant-gpu: ")

    return answer


PROVOKED: dict[str, Callable[..., Any]] = {
    "no GPU": lambda: operant_gpu.make("CartPole-v1", 4, device="cuda"),
    "no CUDA device": lambda: operant_gpu.make("CartPole-v1", 4, backend="triton"),
    "no numba": not_numba,
    "slower": without_numba,
    "no compiler": no_compiler,
    "no cache": nothing_is_kept,
    "compiled": compiled,
    "old card": lambda: launching.check_compiler((7, 0), "3.9.0"),
    "old compiler": lambda: launching.check_compiler((10, 0), "3.6.0"),
    "kernel": lambda: str(
        failure("gradient_kernel", CPU, RuntimeError("out of room"), "set engine='graph' or engine='eager'")
    ),
    "unknown environment": lambda: operant_gpu.make("Cartpole-v1", 4),
    "unknown parameter": lambda: cartpole(gravty=3),
    "unknown mode": lambda: cartpole(autoreset_mode="same"),
    "memory": lambda: cartpole(2**31 - 1),
    "no reset": lambda: cartpole().step(torch.zeros(4, dtype=torch.int32)),
    "closed": closed,
    "too many episodes": too_many_episodes,
    "shape": lambda: stepped(torch.zeros(4, 1, dtype=torch.int64)),
    "values": lambda: stepped(torch.full((4,), 7)),
    "no legal action": lambda: raise_helpless(
        torch.zeros(4, 2, dtype=torch.bool), None, action_layout(cartpole().single_action_space)
    ),
    "kept": kept,
    "stored": stored,
    "network": a_network_in_a_rollout,
    "not a number": not_a_number,
    "fault": a_fault,
    "not fused": lambda: (
        PPO(
            operant_gpu.make("Snake-v0", 8, device="cpu"), PPOConfig(num_envs=8, n_steps=8, cnn_channels=(16,))
        ).engine_reason
    ),
    "no room": no_room,
    "before Ampere": before_ampere,
    "engine": lambda: learner(engine="fused", compile=True),
    "unknown setting": lambda: PPOConfig(learning_rate=1e-3),
    "batch_size": lambda: learner(batch_size=4096),
    "mode of PPO": lambda: PPO(cartpole(8, autoreset_mode="next_step"), PPOConfig(num_envs=8)),
    "wide": lambda: MLPPolicy(
        cartpole().single_observation_space, cartpole().single_action_space, PPOConfig(hidden_sizes=(256,))
    ),
    "cut": cut,
    "no file": lambda: PPO.load("runs/none"),
    "in use": in_use,
    "again": again,
    "no run": answered("train", "--resume", "runs/none"),
    "option": answered("train", "CartPole-v1", "--learning-rate", "1e-3"),
}
# Of what a GPU, several processes or another's files would have to provoke, the sources must have each piece.
OF_SOURCES = (
    "... does not see the GPU that the driver has",
    "... environments read beyond a table",
    "no CUDA graph, training goes on eagerly",
    "'old.pt' has format",
    "'mine.pt' is of 'Mine-v0', which is not registered",
    "...: every process has to make the same calls",
)


def sources() -> Iterator[str]:
    """Yield every text in the package's sources; what is put into one is ...."""
    for path in (ROOT / "operant_gpu").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(one.value) if isinstance(one, ast.Constant) else "..." for one in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("name", PROVOKED)
def test_a_message_of_the_page_is_printed(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in ("no GPU", "no CUDA device") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    provoke, fixtures = PROVOKED[name], {"patch": monkeypatch, "caplog": caplog, "capsys": capsys}
    wanted = provoke.__code__.co_varnames[: provoke.__code__.co_argcount]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            said = provoke(**{key: fixtures[key] for key in wanted})
        except OperantError as error:
            said = str(error)
    printed = " ".join(str(said if isinstance(said, str) else warned[-1].message).split())
    patterns = [".*".join(map(re.escape, message.split("..."))) for message in shown()]
    assert any(re.fullmatch(pattern, printed) for pattern in patterns), printed


@pytest.mark.quick
def test_each_message_of_the_page_is_provoked_or_looked_up() -> None:
    looked_up = [message for message in shown() if message.startswith(OF_SOURCES)]
    assert len(looked_up) == len(OF_SOURCES)
    assert len(shown()) == len(looked_up) + len(PROVOKED)
    texts = "\n".join(sources())
    # Names and numbers of the cases that the page makes up.
    made_up = r"'old\.pt'|'mine\.pt'|'Mine-v0'|\b2(?=, this)"
    for message in looked_up:
        # Advice behind a colon may be put together from another text.
        pieces = re.split(r"\.\.\.|(?<=: )", re.sub(made_up, "...", message))
        assert [piece for piece in pieces if piece.strip(" ,.:") and piece.strip() not in texts] == [], message
