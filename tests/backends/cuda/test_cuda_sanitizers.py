"""What is compiled from C++ under the sanitizers of addresses and of undefined behaviour: environments, the learner."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from contract_envs import CUDA_MAKERS, FORMS
from here import PYTHONPATH, SUPPORT

from operant_gpu.backends.cpp import sanitizers

SANITIZERS = sanitizers.FLAGS
PLAY = f"""
import dataclasses, sys
import torch
from contract_envs import CUDA_MAKERS, modes_of
from mlp_policies import policy_for
from rollouts import all_names
from operant_gpu.backends.cpp import backend
backend.FLAGS += {SANITIZERS}
source, *names = sys.argv[1:]
for name, mode, num_envs in [(name, mode, size) for name in names for mode in modes_of(name) for size in (1, 41, 341)]:
    print(name, mode.name, num_envs, flush=True)
    environment = CUDA_MAKERS[name](1, device="cpu").environment
    environment = dataclasses.replace(environment, source=source or environment.source)
    env = environment(num_envs, device="cpu", autoreset_mode=mode, max_episode_steps=300)
    env.reset(seed=num_envs)
    env.rollout(400 if num_envs == 341 else 50)
    policy = policy_for(env)
    out = env.rollout(9, policy, out=all_names(env))
    for action in out["action"]:
        env.step(action)
    env.reset(options={{"reset_mask": torch.arange(num_envs) % 3 == 0}})
    env.step(torch.full_like(out["action"][0], 99))
print("clean")
"""
LEARN = f"""
import torch
from contract_envs import MODES
from mlp_policies import policy_for
from rollouts import all_names, make
from updates import BOX, CASES, DISCRETE, Fused, case, hyperparameters
from operant_gpu.backends.cpp import learner, update
learner.FLAGS += {SANITIZERS}
update._SAMPLES_PER_THREAD = 1
torch.set_num_threads(3)
for size in ((1, 37), (13, 101)):
    for options in CASES.values():
        given = case(**{{"actions": DISCRETE, "n_epochs": 2, **options, "size": size}})
        assert Fused(given, update).run().status.eq(0).all()
rewards = torch.ones(13, 41)
flags = [torch.rand(13, 41) < 0.1 for _ in range(2)]
update.estimate_advantages(rewards, rewards, rewards, *flags, hyperparameters())
for name in ("CartPole-v1", "Drift-v0", "MaskedDials-v0"):
    for mode in MODES:
        for num_envs in (1, 41, 601):
            env = make(name, "numba", mode, num_envs=num_envs)
            env.reset(seed=num_envs)
            env.rollout(9, policy_for(env), out=all_names(env))
print("clean")
"""


needs_sanitizers = pytest.mark.skipif(sanitizers.runtime() is None, reason="needs g++ with its sanitizers")


# With CUDA's functions, they run every line of the headers.
TELLING = [name for name in CUDA_MAKERS if name in FORMS or name == "CudaFunctions-v0"]
OTHERS = [name for name in CUDA_MAKERS if name not in TELLING]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is compiled with the sanitizers; networks, which take long, are compiled once."""
    return tmp_path_factory.mktemp("cache")


def play(cache: Path, *names: str, source: str = "") -> subprocess.CompletedProcess[str]:
    """Play in a process of its own, with another source than the environments' if one is given."""
    return run(cache, PLAY, source, *names)


def run(cache: Path, *program: str) -> subprocess.CompletedProcess[str]:
    variables = {"PYTHONPATH": PYTHONPATH, "OPERANT_GPU_CACHE": str(cache)}
    return sanitizers.run(list(program), str(sanitizers.runtime()), variables)


@pytest.mark.thorough
@needs_sanitizers
@pytest.mark.parametrize("names", [TELLING, OTHERS], ids=["forms", "others"])
def test_random_play_is_clean(names: list[str], cache: Path) -> None:
    done = play(cache, *names)
    assert done.returncode == 0, done.stdout[-100:] + done.stderr[-3000:]
    assert done.stdout.endswith("\nclean\n")


@needs_sanitizers
def test_the_sanitizers_see_a_write_beyond_an_observation(cache: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.cu"
    bad.write_text((SUPPORT / "cuda/ledge.cu").read_text().replace("obs[2] =", "obs[2000000] ="))
    done = play(cache, "CudaLedge-v0", source=str(bad))
    assert done.returncode != 0
    assert "bad.cu:" in done.stderr


@pytest.mark.thorough
@needs_sanitizers
def test_learning_is_clean(cache: Path) -> None:
    done = run(cache, LEARN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "clean\n"
