"""What only a GPU can show: parity with NumPy there, no waiting, no allocation, graph replay, one compilation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import EVERY_MAKER, assert_same_tensors, random_actions
from gpu_checks import (
    NUM_ENVS,
    compilations,
    every_environment,
    every_environment_in_modes,
    needs,
    no_allocation,
    no_synchronisation,
    reference_of,
)

import operant_gpu
from operant_gpu import ActionError, AutoresetMode, VecEnv

pytestmark = pytest.mark.gpu

# A GPU's sines, roots and quotients differ in their last bits from a CPU's, and so does what comes of them in one step.
NEAR = {"ulps": 64, "atol": 2e-6}


def make(name: str, mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = NUM_ENVS, **settings: Any) -> VecEnv:
    return EVERY_MAKER[name](num_envs, device="cuda", autoreset_mode=mode, **settings)


def flat(result: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    obs, reward, terminated, truncated, info = result
    named = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated}
    named |= {"final_obs": info["final_obs"], "_final_obs": info["_final_obs"], **info["episode"]}
    named |= info.get("metrics", {})
    return {name: tensor.clone() for name, tensor in named.items()}


@every_environment_in_modes
def test_gpu_does_what_numpy_does(name: str, mode: AutoresetMode) -> None:
    """Each step starts from the same state on both; numbers differ in their last bits, so flags may at a boundary."""
    gpu = make(name, mode, max_episode_steps=9)
    cpu = reference_of(name, NUM_ENVS, autoreset_mode=mode, max_episode_steps=9)
    on_gpu, on_cpu = gpu.reset(seed=11)[0], cpu.reset(seed=11)[0]
    assert_same_tensors({"first obs": on_gpu}, {"first obs": on_cpu}, **NEAR)
    first = {field: dict(env.state._asdict()) for field, env in (("gpu", gpu), ("cpu", cpu))}
    # First states are in bits what they are on a CPU, but for normal numbers.
    assert_same_tensors(first["gpu"], first["cpu"], **(NEAR if "Drift" in name else {}))
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = random_actions(cpu, rng)
        found, expected = flat(gpu.step(actions.to(gpu.device))), flat(cpu.step(actions))
        found = {key: tensor.cpu() for key, tensor in found.items()}
        agree = (found["terminated"] == expected["terminated"]) & (found["truncated"] == expected["truncated"])
        # One or two environments may stand on a boundary.
        assert agree.sum() >= NUM_ENVS - 2, f"flags differ in environments {(~agree).nonzero().flatten().tolist()}"
        assert_same_tensors(
            {key: tensor[agree] for key, tensor in found.items()},
            {key: tensor[agree] for key, tensor in expected.items()},
            **NEAR,
        )
        if mode is AutoresetMode.DISABLED:
            mask = expected["terminated"] | expected["truncated"]
            cpu.reset(options={"reset_mask": mask})
            gpu.reset(options={"reset_mask": mask.to(gpu.device)})
        gpu.load_state_dict(cpu.state_dict())
    assert cpu.get_logs()["episode_count"] >= NUM_ENVS


def test_a_large_batch_steps_as_its_parts() -> None:
    """Above 32,768 environments programs are larger."""
    large, small = make("CartPole-v1", num_envs=40_003), make("CartPole-v1", num_envs=11, first_env_id=39_992)
    for env in (large, small):
        env.reset(seed=2)
    rng = np.random.default_rng(1)
    for _ in range(3):
        actions = random_actions(large, rng).to(large.device)
        whole = flat(large.step(actions))
        assert_same_tensors(
            flat(small.step(actions[39_992:])), {name: tensor[39_992:] for name, tensor in whole.items()}
        )


@needs("allocator", "waiting")
@every_environment_in_modes
def test_a_step_neither_waits_nor_allocates(name: str, mode: AutoresetMode) -> None:
    env = make(name, mode)
    env.reset(seed=1)
    actions = random_actions(env, np.random.default_rng(0)).cuda()
    env.step(actions)
    with no_synchronisation(), no_allocation():
        for _ in range(10):
            env.step(actions)


@every_environment
def test_graph_replay_equals_eager_steps(name: str) -> None:
    eager, captured = make(name, max_episode_steps=5), make(name, max_episode_steps=5)
    rng = np.random.default_rng(2)
    actions = random_actions(eager, rng).cuda()
    eager.reset(seed=5)
    captured.reset(seed=5)
    replay = captured.capture(lambda: captured.step(actions))
    for _ in range(12):
        actions.copy_(random_actions(eager, rng))
        expected = flat(eager.step(actions))
        assert_same_tensors(flat(replay()), expected)
    assert eager.get_logs() == captured.get_logs()
    assert eager.get_logs()["episode_count"] >= NUM_ENVS


@needs("graphs of PyTorch")
def test_a_policy_and_a_step_are_one_graph() -> None:
    eager, captured = make("CartPole-v1", max_episode_steps=5), make("CartPole-v1", max_episode_steps=5)
    policy = torch.nn.Linear(4, 2, device="cuda")
    rounds = []
    for env in (eager, captured):
        obs, _ = env.reset(seed=5)
        rounds.append(torch.no_grad()(lambda env=env, obs=obs: env.step(policy(obs).argmax(1))))
    act, replay = rounds[0], captured.capture(rounds[1])
    for _ in range(12):
        assert_same_tensors(flat(replay()), flat(act()))
    assert eager.get_logs() == captured.get_logs()


@pytest.mark.parametrize("shape", [(), (NUM_ENVS,)], ids=["shared", "own"])
def test_graphs_and_launches_see_what_is_written_to_a_parameter(shape: tuple[int, ...]) -> None:
    live, compiled_in = make("Pendulum-v1", g=torch.full(shape, 4.0)), make("Pendulum-v1", g=12.0)
    actions = random_actions(live, np.random.default_rng(2)).cuda()
    for env in (live, compiled_in):
        env.reset(seed=5)
    replay = live.capture(lambda: live.step(actions))
    with compilations() as compiled:
        live.params.g.fill_(12.0)
        for step in range(4):
            expected = flat(compiled_in.step(actions))
            replayed = live.step(actions) if step % 2 else replay()
            # A number is folded in double precision.
            one, other = ({name: part[name] for name in ("obs", "reward")} for part in (flat(replayed), expected))
            assert_same_tensors(one, other, ulps=256, atol=2e-5)
    assert len(compiled) <= 1, f"expected nothing but the step of the other environments, got {compiled}"


def test_kernels_compile_once_whatever_the_size() -> None:
    with compilations() as compiled:
        # A parameter that no other test uses: this process has not loaded such a kernel.
        for num_envs in (64, 4_096, 16_384):
            env = operant_gpu.make("CartPole-v1", num_envs, device="cuda", gravity=9.80665)
            env.reset(seed=0)
            for _ in range(2):
                env.step(torch.ones(num_envs, dtype=torch.int64, device="cuda"))
            env.observe()
    assert len(compiled) == 2, f"expected one kernel of resets and one of steps, got {compiled}"
    with compilations() as compiled:
        # Rows of odd sizes begin anywhere.
        rows = torch.empty(20, 4 * 16_384 + 1, device="cuda")
        for row in rows:
            env.step(torch.ones(16_384, dtype=torch.int64, device="cuda"), out={"obs": row[1:].view(16_384, 4)})
    assert len(compiled) == 1, f"expected one kernel for all rows, got {compiled}"


def test_bad_values_are_counted_and_left_alone() -> None:
    env = make("CartPole-v1")
    env.reset(seed=0)
    before = env.state.x.clone()
    actions = torch.zeros(NUM_ENVS, dtype=torch.int64, device="cuda")
    actions[[3, 1_000]] = torch.tensor([-1, 2**40], device="cuda")
    env.step(actions)
    assert torch.equal(env.state.x[[3, 1_000]], before[[3, 1_000]])
    with pytest.raises(ActionError, match=r"2 actions .* environment 3"):
        env.check()
    env.check()


@needs("host memory apart")
def test_host_actions_are_refused() -> None:
    env = make("CartPole-v1")
    env.reset(seed=0)
    with pytest.raises(ActionError, match=r"\.to\(env\.device\)"):
        env.step(torch.zeros(NUM_ENVS, dtype=torch.int64))


@needs("CuPy")
def test_cupy_sees_the_same_memory() -> None:
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    env = make("Pendulum-v1", output="cupy")
    obs, _ = env.reset(seed=0)
    assert isinstance(obs, cupy.ndarray)
    # CuPy's stream is not torch's: the exchange in each direction waits for what was launched.
    torch.cuda.synchronize()
    stepped, reward, *_ = env.step(cupy.zeros((NUM_ENVS, 1), dtype=cupy.float32))
    torch.cuda.synchronize()
    assert stepped.data.ptr == obs.data.ptr
    assert float(cupy.abs(reward).max()) > 0


@pytest.mark.parametrize("output", ["torch", pytest.param("cupy", marks=needs("CuPy"))])
def test_debug_mode_tells_what_is_kept_on_a_gpu(output: str) -> None:
    if output == "cupy":
        pytest.importorskip("cupy", exc_type=ImportError)
    env = make("CartPole-v1", debug=True, output=output)
    obs, _ = env.reset(seed=0)
    for _ in range(4):
        obs, *_ = env.step(torch.ones(NUM_ENVS, dtype=torch.int64, device="cuda"))
    kept = [obs]
    with pytest.warns(RuntimeWarning, match="something still uses obs"):
        kept += [env.step(torch.ones(NUM_ENVS, dtype=torch.int64, device="cuda"))[0] for _ in range(3)]


@pytest.mark.parametrize("name", ["CartPole-v1", "CudaDials-v0"])
def test_steps_on_several_streams_are_in_the_order_of_their_waits(name: str) -> None:
    streamed, reference = make(name), make(name)
    rng, side = np.random.default_rng(3), torch.cuda.Stream()
    for env in (streamed, reference):
        env.reset(seed=5)
    for step in range(6):
        actions = random_actions(reference, rng).to("cuda")
        expected = flat(reference.step(actions))
        main = torch.cuda.current_stream()
        if step % 2:
            side.wait_stream(main)
            with torch.cuda.stream(side):
                found = flat(streamed.step(actions))
            main.wait_stream(side)
        else:
            found = flat(streamed.step(actions))
        assert_same_tensors(found, expected)
