"""What only a GPU can show: parity with NumPy there, no waiting, no allocation, graph replay, one compilation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import EVERY_MAKER, random_actions
from gpu_checks import capture, compilations, no_allocation, no_synchronisation
from gymnasium.vector import AutoresetMode

import operant_gpu
from operant_gpu import ActionError, VecEnv

pytestmark = pytest.mark.gpu

NUM_ENVS = 4_231
MODES = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
ENVIRONMENTS = pytest.mark.parametrize("id", EVERY_MAKER)


def make(id: str, device: str, mode: AutoresetMode = AutoresetMode.SAME_STEP, **settings: Any) -> VecEnv:
    return EVERY_MAKER[id](NUM_ENVS, device=device, autoreset_mode=mode, **settings)


def flat(result: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    obs, reward, terminated, truncated, info = result
    named = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated}
    named |= {"final_obs": info["final_obs"], "_final_obs": info["_final_obs"], **info["episode"]}
    return {name: tensor.clone() for name, tensor in named.items()}


@ENVIRONMENTS
@MODES
def test_gpu_does_what_numpy_does(id: str, mode: AutoresetMode) -> None:
    """Each step starts from the same state on both; sines differ in their last bit, so flags may at a boundary."""
    gpu, cpu = make(id, "cuda", mode, max_episode_steps=20), make(id, "cpu", mode, max_episode_steps=20)
    on_gpu, on_cpu = gpu.reset(seed=11)[0], cpu.reset(seed=11)[0]
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=1e-6)
    for name, column in gpu.state._asdict().items():
        # First states are in bits what they are on a CPU, but for normal numbers.
        close = {"rtol": 1e-5, "atol": 1e-6} if name == "y" and "Drift" in id else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(column.cpu(), getattr(cpu.state, name), **close)
    rng = np.random.default_rng(0)
    for _ in range(50):
        actions = random_actions(cpu, rng)
        one, other = flat(gpu.step(actions.cuda())), flat(cpu.step(actions))
        agree = (one["terminated"].cpu() == other["terminated"]) & (one["truncated"].cpu() == other["truncated"])
        assert agree.float().mean() > 0.999
        for name, expected in other.items():
            torch.testing.assert_close(one[name].cpu()[agree], expected[agree], rtol=1e-4, atol=1e-4)
        if mode is AutoresetMode.DISABLED:
            mask = other["terminated"] | other["truncated"]
            cpu.reset(options={"reset_mask": mask})
            gpu.reset(options={"reset_mask": mask.cuda()})
        gpu.load_state_dict(cpu.state_dict())


@ENVIRONMENTS
@MODES
def test_a_step_neither_waits_nor_allocates(id: str, mode: AutoresetMode) -> None:
    env = make(id, "cuda", mode)
    env.reset(seed=1)
    actions = random_actions(env, np.random.default_rng(0)).cuda()
    env.step(actions)
    with no_synchronisation(), no_allocation():
        for _ in range(10):
            env.step(actions)


@ENVIRONMENTS
def test_graph_replay_equals_eager_steps(id: str) -> None:
    eager, captured = make(id, "cuda", max_episode_steps=15), make(id, "cuda", max_episode_steps=15)
    rng = np.random.default_rng(2)
    actions = random_actions(eager, rng).cuda()
    eager.reset(seed=5)
    captured.reset(seed=5)
    graph, replayed = capture(captured, lambda: captured.step(actions))
    for _ in range(40):
        actions.copy_(random_actions(eager, rng))
        expected = flat(eager.step(actions))
        graph.replay()
        for name, tensor in flat(replayed).items():
            assert torch.equal(tensor, expected[name]), name
    assert eager.get_logs() == captured.get_logs()


def test_kernels_compile_once_whatever_the_size() -> None:
    with compilations() as compiled:
        # A parameter that no other test uses: nothing is in the cache of this process.
        for num_envs in (64, 4_096, 16_384):
            env = operant_gpu.make("CartPole-v1", num_envs, device="cuda", gravity=9.80665)
            env.reset(seed=0)
            for _ in range(5):
                env.step(torch.ones(num_envs, dtype=torch.int64, device="cuda"))
            env.observe()
    assert len(compiled) == 2, compiled


def test_bad_values_are_counted_and_left_alone() -> None:
    env = make("CartPole-v1", "cuda")
    env.reset(seed=0)
    before = env.state.x.clone()
    actions = torch.zeros(NUM_ENVS, dtype=torch.int64, device="cuda")
    actions[[3, 4_000]] = torch.tensor([-1, 2**40], device="cuda")
    env.step(actions)
    assert torch.equal(env.state.x[[3, 4_000]], before[[3, 4_000]])
    with pytest.raises(ActionError, match=r"2 actions .* environment 3"):
        env.check()
    env.check()


def test_host_actions_are_refused() -> None:
    env = make("CartPole-v1", "cuda")
    env.reset(seed=0)
    with pytest.raises(ActionError, match=r"\.to\(env\.device\)"):
        env.step(torch.zeros(NUM_ENVS, dtype=torch.int64))


def test_cupy_sees_the_same_memory() -> None:
    cupy = pytest.importorskip("cupy")
    env = make("Pendulum-v1", "cuda", output="cupy")
    obs, _ = env.reset(seed=0)
    assert isinstance(obs, cupy.ndarray)
    # CuPy's stream is not torch's: the exchange in each direction waits for what was launched.
    torch.cuda.synchronize()
    stepped, reward, *_ = env.step(cupy.zeros((NUM_ENVS, 1), dtype=cupy.float32))
    torch.cuda.synchronize()
    assert stepped.data.ptr == obs.data.ptr
    assert float(cupy.abs(reward).max()) > 0


def test_ppo_learns_on_the_gpu() -> None:
    from operant_gpu.models import PPO, PPOConfig

    env = operant_gpu.make("CartPole-v1", 256, device="cuda")
    best = 0.0

    def until_solved(metrics: dict[str, float]) -> bool:
        nonlocal best
        best = max(best, metrics["episodic_return"])
        return best < 400

    learner = PPO(env, PPOConfig(batch_size=1024)).learn(1_000_000, until_solved)
    assert best >= 400
    assert next(learner.policy.parameters()).is_cuda
