"""What Gymnasium and other array libraries see: make_vec, wrappers, pictures, shared memory, saved states."""

from __future__ import annotations

import io
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from contract_envs import assert_same_tensors, everything, make_cpu, random_actions
from foreign import Exported
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import vector as wrappers

import operant_gpu
from operant_gpu import AutoresetMode, InvalidConfig, VecEnv
from operant_gpu.envs import CartPole

N = 5


def made(name: str = "CartPole-v1", **settings: Any) -> Any:
    backend = "cpp" if name.startswith("MinAtar") else "numpy"
    return gymnasium.make_vec(f"operant_gpu/{name}", **{"num_envs": N, "device": "cpu", "backend": backend, **settings})


def pushes(steps: int, seed: int = 0) -> np.ndarray:
    """Return discrete actions (steps, N)."""
    return np.random.default_rng(seed).integers(0, 2, (steps, N))


# ---- gymnasium.make_vec


@pytest.mark.parametrize("name", operant_gpu.list_envs())
def test_make_vec_makes_every_environment(name: str) -> None:
    env, own = made(name), operant_gpu.make(name, device="cpu")
    assert isinstance(env, VectorEnv)
    assert isinstance(env, VecEnv)
    assert env.unwrapped is env
    assert env.num_envs == N
    assert env.metadata["autoreset_mode"] is env.autoreset_mode is AutoresetMode.NEXT_STEP
    assert env.metadata["render_modes"] == ["rgb_array"]
    assert env.single_action_space == own.single_action_space
    assert env.spec.id == f"operant_gpu/{name}"
    assert env.spec.max_episode_steps == own.environment.max_episode_steps
    assert env.spec.reward_threshold == own.environment.reward_threshold
    env.reset(seed=1)
    env.step(env.action_space.sample())
    env.check()


def test_make_vec_passes_parameters_and_settings_on(backend: str) -> None:
    env = made(
        backend=backend,
        gravity=1.6,
        sutton_barto_reward=True,
        max_episode_steps=2,
        autoreset_mode="SameStep",
        copy=True,
    )
    assert env.params == CartPole.make_params({"gravity": 1.6, "sutton_barto_reward": True})
    assert env.backend == backend
    assert env.autoreset_mode is AutoresetMode.SAME_STEP
    env.reset(seed=1)
    results = [env.step(np.zeros(N, int)) for _ in range(2)]
    assert [truncated.all().item() for *_, truncated, _ in results] == [False, True]
    assert not results[1][1].any()
    with pytest.raises(InvalidConfig, match="did you mean 'gravity'"):
        made(gravitty=1.6)


def test_a_spec_makes_the_same_environment_again() -> None:
    env = made(gravity=1.6, max_episode_steps=9)
    again = gymnasium.make_vec(env.spec)
    assert again is not env
    assert (again.num_envs, again.params, again.autoreset_mode) == (N, env.params, env.autoreset_mode)
    assert again.spec == env.spec


def test_a_spec_can_be_written_to_json() -> None:
    env = made(gravity=1.6)
    again = gymnasium.make_vec(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert (again.num_envs, again.params, again.autoreset_mode) == (N, env.params, env.autoreset_mode)


# ---- Gymnasium's wrappers: tests/vector/test_wrappers.py has the others


@pytest.fixture(params=["numpy", "torch"])
def arrays(request: pytest.FixtureRequest) -> Any:
    """Make a CartPole as Gymnasium's NumPy wrappers want it, by either way, in memory that each step writes anew."""

    def make(**settings: Any) -> VectorEnv[Any, Any, Any]:
        env = made(output=request.param, **settings)
        if request.param == "numpy":
            return env
        pytest.importorskip("array_api_compat", reason="Gymnasium's ArrayConversion needs array-api-compat")
        return wrappers.ArrayConversion(env, env_xp=torch, target_xp=np)

    return make


def test_outputs_arrive_as_numpy_arrays(arrays: Any) -> None:
    env = arrays()
    assert env.observation_space.contains(env.reset(seed=3)[0])
    obs, reward, terminated, truncated, info = env.step(pushes(1)[0])
    everything_returned = [
        obs,
        reward,
        terminated,
        truncated,
        info["final_obs"],
        info["episode"]["r"],
        info["_episode"],
    ]
    assert all(type(part) is np.ndarray for part in everything_returned)
    assert env.observation_space.contains(obs)


def test_record_episode_statistics_wants_another_key(arrays: Any) -> None:
    env = wrappers.RecordEpisodeStatistics(arrays(max_episode_steps=1))
    env.reset(seed=3)
    with pytest.raises(ValueError, match="'episode' but this key already exists"):
        env.step(pushes(1)[0])


# ---- pictures

# A field of the state that moves what is drawn, and two values of it.
MOVED = {
    "Acrobot-v1": ("theta1", 0.0, 1.0),
    "CartPole-v1": ("x", -1.0, 1.0),
    "Game2048-v0": ("board", 2, 5),
    "FrozenLake-v1": ("row", 0, 3),
    "FrozenLake8x8-v1": ("row", 0, 3),
    "GridWalk-v0": ("x", 0, 9),
    "MinAtar-Asterix-v1": ("player_x", 0, 9),
    "MinAtar-Breakout-v1": ("paddle", 1, 8),
    "MinAtar-Freeway-v1": ("chicken_y", 9, 1),
    "MinAtar-Seaquest-v1": ("oxygen", 200, 20),
    "MinAtar-SpaceInvaders-v1": ("cannon_x", 0, 9),
    "MountainCar-v0": ("position", -0.9, 0.2),
    "MountainCarContinuous-v0": ("position", -0.9, 0.2),
    "Pendulum-v1": ("theta", 0.0, 2.0),
    "Snake-v0": ("head", 2, 70),
}


@pytest.mark.parametrize("name", operant_gpu.list_envs())
def test_pictures_show_the_state(name: str) -> None:
    pytest.importorskip("pygame")
    env = made(name, num_envs=3, render_mode="rgb_array")
    assert env.render_mode == "rgb_array"
    env.reset(seed=[4, 4, 5])
    field, here, there = MOVED[name]
    for column, value in zip(getattr(env.state, field), (here, here, there), strict=True):
        column.fill_(value)
    before = everything(env)
    pictures = env.render()
    assert len(pictures) == 3
    for picture in pictures:
        assert picture.dtype == np.uint8
        assert picture.shape == (*pictures[0].shape[:2], 3)
        assert picture.std() > 1
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    for indices in ([2, 0, 2], (), np.array([1]), range(1, 3)):
        chosen = env.render(indices)
        assert len(chosen) == len(indices)
        assert all(np.array_equal(one, pictures[index]) for one, index in zip(chosen, indices, strict=True))
    assert_same_tensors(everything(env), before)


def test_pictures_show_the_parameters() -> None:
    pytest.importorskip("pygame")
    settings = {"num_envs": 1, "render_mode": "rgb_array"}
    usual, long = made(**settings), made(**settings, length=1.0)
    for env in (usual, long):
        env.reset(seed=1)
    first = usual.render()[0]
    assert not np.array_equal(long.render()[0], first)
    assert np.array_equal(usual.render()[0], first)


def test_without_a_render_mode_there_is_no_picture() -> None:
    env = made()
    env.reset(seed=1)
    assert env.render() is None


# ---- shared memory and saved states


def named(result: tuple[Any, ...]) -> dict[str, Any]:
    """Return the arrays of a step by name."""
    *parts, info = result
    outputs = dict(zip(("obs", "reward", "terminated", "truncated"), parts, strict=True))
    return {**outputs, "final_obs": info["final_obs"], "ended": info["_episode"], **info["episode"]}


def pair(name: str, backend: str, **settings: Any) -> tuple[VecEnv, VecEnv]:
    """Return two environments that do the same."""
    envs = tuple(make_cpu(name, N, backend, **settings) for _ in range(2))
    for env in envs:
        env.reset(seed=1)
    return envs


@pytest.mark.parametrize("output", ["torch", "numpy"])
@pytest.mark.parametrize("library", [torch, np], ids=["to torch", "to numpy"])
def test_outputs_are_read_in_place_through_dlpack(output: str, library: Any, backend: str) -> None:
    env, reference = pair("CartPole-v1", backend, output=output, max_episode_steps=2)
    first, second = pushes(2)
    views = {name: library.from_dlpack(part) for name, part in named(env.step(first)).items()}
    for actions in (first, second):
        if actions is second:
            env.step(second)
        expected = named(reference.step(actions))
        for name, view in views.items():
            assert torch.from_dlpack(view).equal(torch.from_dlpack(expected[name])), name
    assert expected["truncated"].all()


TORQUES = np.linspace(-2, 2, N, dtype=np.float32)[:, None]
ACTIONS = {
    "array": TORQUES,
    "strided array": np.repeat(TORQUES, 3, axis=1)[:, 1:2],
    "reversed array": TORQUES[::-1].copy()[::-1],
    "read-only array": np.frombuffer(TORQUES.tobytes(), np.float32).reshape(N, 1),
    "strided tensor": torch.from_numpy(np.repeat(TORQUES, 2, axis=0))[::2],
    "exported by numpy": Exported(TORQUES),
    "exported by torch": Exported(torch.from_numpy(TORQUES)),
    "list": TORQUES.tolist(),
    "tuple of tuples": tuple(map(tuple, TORQUES.tolist())),
    "list of arrays": list(TORQUES),
}


@pytest.mark.parametrize("form", ACTIONS)
def test_actions_come_in_any_form(form: str, backend: str) -> None:
    env, reference = pair("Pendulum-v1", backend)
    expected = named(reference.step(torch.from_numpy(TORQUES)))
    assert_same_tensors(named(env.step(ACTIONS[form])), expected)


def test_numpy_outputs_are_the_same_arrays_every_step_and_copies_are_not(backend: str) -> None:
    env, _ = pair("CartPole-v1", backend, output="numpy")
    one, other = (named(env.step(actions)) for actions in pushes(2))
    assert all(one[name] is other[name] for name in one)
    assert env.observe() is one["obs"]

    copying, _ = pair("CartPole-v1", backend, output="numpy", copy=True)
    out = {"obs": torch.zeros(N, 4)}
    one, other = (named(copying.step(actions, out=out)) for actions in pushes(2))
    assert [name for name in one if np.shares_memory(one[name], other[name])] == ["obs"]
    assert np.array_equal(env.observe(), other["obs"])
    assert np.array_equal(out["obs"].numpy(), other["obs"])
    assert np.shares_memory(env.step(pushes(1)[0], out=out)[0], out["obs"].numpy())


def component_by_component(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(*shape[1:], shape[0], dtype=dtype).movedim(-1, 0)


def environments_outermost(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return the second of three steps of rollout storage (num_envs, steps, ...)."""
    return torch.zeros(shape[0], 3, *shape[1:], dtype=dtype)[:, 1]


@pytest.mark.parametrize("place", [component_by_component, environments_outermost])
@pytest.mark.parametrize("name", ["CartPole-v1", "Dials-v0"])
def test_out_is_written_in_place_whatever_the_strides_of_observations(name: str, place: Any, backend: str) -> None:
    env, reference = pair(name, backend, max_episode_steps=2)
    rng = np.random.default_rng(0)
    for _ in range(2):
        actions = random_actions(env, rng)
        expected = named(reference.step(actions))
        out = {key: place(tuple(expected[key].shape), torch.float32) for key in ("obs", "final_obs")}
        out |= {key: torch.zeros_like(expected[key]) for key in ("reward", "terminated", "truncated")}
        outputs = named(env.step(actions, out=out))
        assert_same_tensors(outputs, expected)
        for key, given in out.items():
            assert given.equal(expected[key]), key
            assert outputs[key].data_ptr() == given.data_ptr()
            # An observation of two axes comes back as another view of the same memory.
            assert outputs[key] is given or name == "Dials-v0"


@pytest.mark.parametrize("output", ["reward", "terminated", "truncated"])
def test_out_with_rewards_or_flags_apart_is_refused(output: str, backend: str) -> None:
    env, _ = pair("CartPole-v1", backend)
    before = everything(env)
    storage = torch.zeros(N, 3, dtype=torch.float32 if output == "reward" else torch.bool)
    with pytest.raises(InvalidConfig, match=rf"{output} must have stride 1 .*, got strides \(3,\)"):
        env.step(pushes(1)[0], out={output: storage[:, 1]})
    assert_same_tensors(everything(env), before)


def test_out_with_components_out_of_order_is_refused() -> None:
    env, _ = pair("Dials-v0", "numpy")
    before = everything(env)
    with pytest.raises(InvalidConfig, match="obs must be evenly spaced"):
        env.step(torch.zeros(N, 2, dtype=torch.int32), out={"obs": torch.zeros(2, 2, N).permute(2, 1, 0)})
    assert_same_tensors(everything(env), before)


def test_out_may_name_some_outputs_and_the_rest_is_the_environments_own(backend: str) -> None:
    env, _ = pair("CartPole-v1", backend)
    first, second, third = pushes(3)
    own = named(env.step(first))
    own_obs, out = own["obs"].clone(), {"obs": torch.zeros(N, 4)}
    parts = named(env.step(second, out=out))
    assert all(parts[name].data_ptr() == own[name].data_ptr() for name in own.keys() - {"obs"})
    assert parts["obs"] is out["obs"]
    assert own["obs"].equal(own_obs)
    # The next step without `out` is in the environment's own memory again.
    kept = out["obs"].clone()
    assert env.step(third)[0] is own["obs"]
    assert not own["obs"].equal(own_obs)
    assert out["obs"].equal(kept)


@pytest.mark.parametrize("name", ["CartPole-v1", "Drift-v0"])
@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_a_state_saved_to_a_file_goes_on_bit_for_bit(name: str, mode: str, backend: str) -> None:
    settings = {"autoreset_mode": mode, "max_episode_steps": 3}
    # Streams of its own, that the restored environment cannot have by itself.
    env = make_cpu(name, N, backend, **settings, first_env_id=40)
    env.reset(seed=[3, None, 3, 4, None])
    rng = np.random.default_rng(0)
    # In NEXT_STEP the third step leaves every environment waiting for its reset.
    for _ in range(3):
        env.step(random_actions(env, rng))
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    restored = make_cpu(name, N, backend, **settings)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.observe().equal(env.observe())
    for _ in range(5):
        actions = random_actions(env, rng)
        assert_same_tensors(named(restored.step(actions)), named(env.step(actions)))
    assert restored.get_logs() == env.get_logs()
    assert restored.reset()[0].equal(env.reset()[0])


@pytest.mark.parametrize(
    "settings",
    [{"max_episode_steps": 7}, {"autoreset_mode": "NextStep"}, {"gravity": 1.6}, {"num_envs": N + 1}],
    ids=str,
)
def test_a_state_of_other_settings_is_refused_and_changes_nothing(settings: dict[str, Any]) -> None:
    env, _ = pair("CartPole-v1", "numpy")
    other = CartPole(**{"num_envs": N, "device": "cpu", "backend": "numpy", **settings})
    other.reset(seed=2)
    before = everything(env)
    with pytest.raises(InvalidConfig, match=rf"^state_dict: .*{next(iter(settings)).replace('gravity', 'params')}"):
        env.load_state_dict(other.state_dict())
    assert_same_tensors(everything(env), before)
