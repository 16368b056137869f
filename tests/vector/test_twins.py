"""Copies and pickles are twins, in memory of their own; forked processes have threads of their own."""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_envs import Ledge, assert_same_tensors, every_form, everything, make_cpu, random_actions
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from here import PYTHONPATH
from numpy.random import default_rng

import operant_gpu
from operant_gpu import AutoresetMode, InvalidConfig, ResetNeeded, VecEnv


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


WAYS: dict[str, Callable[[Any], Any]] = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": pickled}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def results(env: VecEnv, seed: int) -> dict[str, torch.Tensor]:
    obs, reward, terminated, truncated, info = env.step(random_actions(env, default_rng(seed)))
    flags = {"reward": reward, "terminated": terminated, "truncated": truncated, "return": info["episode"]["r"]}
    return {"obs": obs, "final_obs": info["final_obs"], **flags, **everything(env)}


@pytest.mark.quick
@every_form
def test_a_copy_has_the_same_future_in_memory_of_its_own(name: str, backend: str, mode: AutoresetMode) -> None:
    check_twin(make_cpu(name, 70, backend, autoreset_mode=mode, max_episode_steps=9, first_env_id=5), copy.deepcopy)


@every_way
@pytest.mark.parametrize("name", ["CartPole-v1", "MinAtar-Breakout-v1"])
def test_every_way_gives_such_a_twin(name: str, way: Callable[[Any], Any]) -> None:
    check_twin(operant_gpu.make(name, 70, device="cpu", max_episode_steps=9), way)


def check_twin(env: VecEnv, way: Callable[[Any], Any]) -> None:
    env.reset(seed=3)
    results(env, 0)
    twin = way(env)
    assert twin.shown.equal(env.shown)
    assert repr(twin) == repr(env)
    before = everything(twin)
    kept = [{key: tensor.clone() for key, tensor in results(env, seed).items()} for seed in range(12)]
    assert_same_tensors(everything(twin), before)
    del env
    gc.collect()
    for seed, expected in enumerate(kept):
        assert_same_tensors(results(twin, seed), expected)


@every_way
def test_a_twin_has_the_same_settings(way: Callable[[Any], Any]) -> None:
    settings: dict[str, Any] = {"output": "numpy", "copy": True, "debug": True, "render_mode": "rgb_array"}
    env = operant_gpu.make("CartPole-v1", 3, device="cpu", max_episode_steps=-1, gravity=5.0, **settings)
    twin = way(env)
    assert twin.environment is operant_gpu.envs.CartPole
    assert (twin.params, twin.max_episode_steps, twin.output) == (env.params, None, "numpy")
    with pytest.raises(ResetNeeded, match="call reset"):
        twin.step([0, 0, 0])
    for each in (env, twin):
        each.reset(seed=2)
    assert (env.step([0, 1, 0])[0] == twin.step([0, 1, 0])[0]).all()
    assert len(twin.render() or ()) == 3
    with pytest.raises(operant_gpu.ActionError):
        twin.step([0, 1, 9])
    env.close()
    with pytest.raises(ResetNeeded, match="is closed"):
        way(env).reset()


def test_wrapped_environments_are_copied_too() -> None:
    env = RecordEpisodeStatistics(operant_gpu.make("CartPole-v1", 3, device="cpu", output="numpy", copy=True))
    env.reset(seed=2)
    twin = copy.deepcopy(env)
    for _ in range(3):
        first = env.step([0, 1, 1])[0]
    for _ in range(3):
        second = twin.step([0, 1, 1])[0]
    assert (first == second).all()


def test_a_definition_is_pickled_by_its_name() -> None:
    assert pickled(Ledge) is Ledge
    assert copy.deepcopy(Ledge) is copy.copy(Ledge) is Ledge
    nameless = dataclasses.replace(Ledge, max_episode_steps=3)
    with pytest.raises(InvalidConfig, match=r"^environment: Ledge-v0 can be pickled by its name only.*top level"):
        pickle.dumps(nameless(2, device="cpu"))
    assert copy.deepcopy(nameless(2, device="cpu")).environment is nameless


def run_python(code: str, **variables: str) -> str:
    """Run code in a process of its own; return what it prints."""
    environ = {**os.environ, "PYTHONPATH": PYTHONPATH, **variables}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pickle_is_read_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = operant_gpu.make("CartPole-v1", 3, device="cpu")
    env.reset(seed=2)
    # A program may have a name for it too.
    monkeypatch.setattr(sys.modules["__main__"], "CartPole", operant_gpu.envs.CartPole, raising=False)
    (tmp_path / "env.pickle").write_bytes(pickle.dumps(env))
    code = f"""
import pickle
env = pickle.loads(open({str(tmp_path / "env.pickle")!r}, "rb").read())
print(env.step([0, 1, 1])[0].tolist())
"""
    assert run_python(code).strip() == str(env.step([0, 1, 1])[0].tolist())


FORKED = """
import os, torch
from contract_envs import make_cpu
torch.set_num_threads(2)
env = make_cpu({name!r}, 65_536, {backend!r})
def play():
    env.reset(seed=1)
    env.rollout(12)
    env.step(torch.zeros(65_536, dtype=torch.int64))
    return env.get_logs(clear=True), float(env.shown.double().sum())
expected = play()
child = os.fork()
if child == 0:
    os._exit(7 if play() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("name", "backend"), [("CartPole-v1", "numpy"), ("CartPole-v1", "numba"), ("CudaCartPole-v1", "cpp")]
)
def test_a_forked_process_has_threads_of_its_own(name: str, backend: str) -> None:
    # With more than one of PyTorch's own threads, which a worker of the tests has not.
    assert run_python(FORKED.format(name=name, backend=backend), OMP_NUM_THREADS="2").strip() == "7"


@pytest.mark.parametrize("error", [InvalidConfig("seed", "expected\n one", "a\nb"), ResetNeeded("reset")], ids=repr)
def test_an_error_comes_from_another_process_as_it_is(error: Exception) -> None:
    found = pickled(error)
    assert (type(found), str(found)) == (type(error), str(error))
    assert getattr(found, "param", None) == getattr(error, "param", None)
