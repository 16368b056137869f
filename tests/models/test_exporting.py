"""Policies in other programs do what they do here."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_envs import Forbidden, Locate

import operant_gpu
from operant_gpu import BackendError, ExportError, InvalidConfig
from operant_gpu.models import PPO, PPOConfig, export, exporting

onnxruntime = pytest.importorskip("onnxruntime")

SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 32, "hidden_sizes": (16,)}
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "discrete": ("CartPole-v1", {}),
    "normalized box": ("Pendulum-v1", {"normalize_observations": True}),
    "recurrent": ("CartPole-v1", {"gru_size": 8}),
    "recurrent, one trunk, bfloat16": ("Pendulum-v1", {"gru_size": 8, "shared_trunk": True, "use_amp": True}),
    "masked": (Forbidden, {}),
    "masked bytes": ("Game2048-v0", {"cnn_channels": ()}),
    "image, several choices": (Locate, {"cnn_channels": (4,)}),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def trained(variant: str) -> PPO:
    environment, changes = VARIANTS[variant]
    env = operant_gpu.make(environment, 16, device="cpu") if isinstance(environment, str) else environment(16)
    return PPO(env, PPOConfig(**{**SMALL, **changes})).learn(256)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_exported_acts_as_the_controller(variant: str, suffix: str, tmp_path: Path) -> None:
    learner, path = trained(variant), tmp_path / f"policy{suffix}"
    made = export(learner, path)
    assert made.error <= 1e-5
    assert made.observations == 32 * (1 + 7 + 64)
    run = onnx_session(path) if suffix == ".onnx" else program(path, made.inputs)
    env = learner.env.environment(5, device="cpu")
    act, (obs, info) = learner.controller(), env.reset(seed=11)
    state, ended = np.zeros((5, learner.policy.state_size), np.float32), np.ones(5, bool)
    for step in range(30):
        known = {"obs": obs.numpy(), "state": state, "starts": ended}
        if "action_mask" in info:
            known["action_mask"] = info["action_mask"].numpy()
        found = dict(zip(made.outputs, run({name: known[name].copy() for name in made.inputs}), strict=True))
        actions = act(obs, torch.as_tensor(ended) if step else None, info.get("action_mask"))
        if VARIANTS[variant][1].get("use_amp"):
            # Exported in float32.
            np.testing.assert_allclose(found["action"], actions.numpy(), atol=0.05)
        else:
            np.testing.assert_allclose(found["action"], actions.numpy(), rtol=1e-4, atol=1e-5)
        state = found.get("next_state", state)
        obs, _, terminated, truncated, info = env.step(actions)
        ended = (terminated | truncated).numpy()


def onnx_session(path: Path) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def program(path: Path, names: tuple[str, ...]) -> Any:
    with warnings.catch_warnings():
        # As in the library.
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        module = torch.export.load(path).module()
    return lambda feed: [part.numpy() for part in module(*(torch.as_tensor(feed[name]) for name in names))]


class Odd(torch.nn.Module):
    """A network that no graph can hold: it looks at its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.layer(obs)
        if float(out.sum()) > 1e6:
            out = out * 0
        return out[:, :2], out[:, 2]


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_network_that_cannot_be_exported_is_an_error(suffix: str, tmp_path: Path) -> None:
    learner = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), PPOConfig(**SMALL), network=Odd())
    with pytest.raises(ExportError, match=f"Odd cannot be exported to {suffix}: "):
        export(learner, tmp_path / f"policy{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", [0, 1, 2])
def test_an_export_that_does_something_else_is_not_kept(
    output: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporting._read_program

    def wrong(content: bytes) -> Any:
        run = real(content)

        def changed(case: Any) -> Any:
            parts = list(run(case))
            parts[output] = parts[output] + 1
            return tuple(parts)

        return changed

    monkeypatch.setattr(exporting, "_read_program", wrong)
    name = ("an action is not the likeliest", "distribution differs by", "value differs by")[output]
    with pytest.raises(ExportError, match=name):
        export(trained("discrete"), tmp_path / "policy.pt2")
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = trained("discrete")
    with pytest.raises(InvalidConfig, match=r"out: expected a file that ends in \.onnx or \.pt2, got 'policy\.pkl'"):
        export(learner, "policy.pkl")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfig, match="out: cannot write"):
        export(learner, tmp_path / "file" / "policy.pt2")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(BackendError, match=r'pip install -e "\.\[export\]" in the clone, or write a \.pt2'):
        export(learner, tmp_path / "policy.onnx")


def test_reading_a_program_back_warns_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.export.load

    def load(file: Any) -> Any:
        # As PyTorch 2.11 does, which for these tests is an error.
        warnings.warn("The given buffer is not writable, and PyTorch does not support", UserWarning, stacklevel=1)
        return real(file)

    monkeypatch.setattr(torch.export, "load", load)
    assert export(trained("discrete"), tmp_path / "policy.pt2").error <= 1e-5


def test_the_learner_stays_as_it_is(tmp_path: Path) -> None:
    learner = trained("discrete")
    before = learner.state_dict()
    export(learner, tmp_path / "policy.pt2")
    after = learner.state_dict()
    torch.testing.assert_close(after["policy"], before["policy"], rtol=0, atol=0)
    torch.testing.assert_close(after["environments"]["columns"], before["environments"]["columns"], rtol=0, atol=0)
    assert torch.equal(after["generators"]["learner"], before["generators"]["learner"])
    assert all(parameter.requires_grad for parameter in learner.policy.parameters())
    assert learner.policy.training
