"""Parameters in memory: what they mean, that they are live, that they are kept, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import cuda_twins
import gymnasium
import numpy as np
import pytest
import torch
from contract_envs import assert_same_tensors, everything, random_actions
from foreign import Exported
from gymnasium import spaces
from here import BACKENDS, HAS_TRITON
from varied_envs import CARTPOLE, TILES, Tiles, given, varied

import operant_gpu
from operant_gpu import AutoresetMode, BackendError, Environment, InvalidConfig, VecEnv
from operant_gpu.arrays import cells
from operant_gpu.backends.numba.cache import compiled
from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.environment import Definition
from operant_gpu.envs import CartPole, Pendulum
from operant_gpu.lang import Array, jit, tl
from operant_gpu.random import integers
from operant_gpu.randomization import Choice, LogUniform, Normal, Uniform

pytestmark = pytest.mark.quick
N = 8


def make(definition: Definition, backend: str, num_envs: int = N, **settings: Any) -> VecEnv:
    return definition(num_envs, device="cpu", backend=backend, **settings)


def moved(env: VecEnv, steps: int = 12) -> dict[str, torch.Tensor]:
    """Return all that decides the future, after steps from the present."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        env.step(random_actions(env, rng))
    return {name: tensor for name, tensor in everything(env).items() if not name.startswith("params.")}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(), (N,)], ids=["shared", "own"])
def test_numbers_in_memory_are_those_that_are_compiled_in(backend: str, shape: tuple[int, ...]) -> None:
    """Powers of two: whatever is folded beforehand in double precision is then the same."""
    numbers = {"gravity": 8.0, "masscart": 1.0, "masspole": 0.25, "length": 0.5, "force_mag": 16.0, "tau": 0.03125}
    tensors = {name: torch.full(shape, value) for name, value in numbers.items()}
    envs = [make(CartPole, backend, **params) for params in (numbers, tensors)]
    for env in envs:
        env.reset(seed=3)
    # The sums of two masses are rounded once in float32, and folded in double precision; `/` on a GPU is off in the
    # last bits, unless its divisor is compiled in.
    assert_same_tensors(moved(envs[1]), moved(envs[0]), ulps=16, atol=5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_environment_has_its_own(backend: str) -> None:
    gravity = torch.linspace(1, 20, N)
    together = make(Pendulum, backend, g=gravity)
    together.reset(seed=1)
    found = moved(together)
    for place, g in enumerate(gravity):
        alone = make(Pendulum, backend, num_envs=1, first_env_id=place, g=g)
        alone.reset(seed=1)
        rng = np.random.default_rng(0)
        for _ in range(12):
            alone.step(random_actions(together, rng)[place : place + 1])
        assert torch.equal(alone.state.theta_dot[0], found["theta_dot"][place])
        assert not torch.equal(alone.state.theta_dot[0], found["theta_dot"][place - 1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(), (N,)], ids=["shared", "own"])
def test_what_is_written_is_seen_by_the_next_step_and_rollout(backend: str, shape: tuple[int, ...]) -> None:
    env, other = (make(Pendulum, backend, g=torch.full(shape, g)) for g in (5.0, 12.0))
    for one in (env, other):
        one.reset(seed=0)
    env.params.g[...] = 12.0
    assert_same_tensors(moved(env), moved(other))
    env.rollout(5)
    other.rollout(5)
    assert_same_tensors(everything(env), everything(other))
    if shape:
        env.params.g[:2] = 3.0
        theta = env.state.theta_dot.clone()
        env.rollout(1)
        other.rollout(1)
        differs = env.state.theta_dot != other.state.theta_dot
        assert differs.tolist() == [True, True, *[False] * (N - 2)]
        assert not torch.equal(theta, env.state.theta_dot)


def test_nothing_that_was_given_is_written_or_read_again() -> None:
    tensor, array = torch.full((N,), 9.0), np.full(N, 0.5)
    one, other = CartPole(N, device="cpu", gravity=tensor, length=array), CartPole(N, device="cpu", gravity=tensor)
    tensor.fill_(1.0)
    array.fill(2.0)
    one.params.gravity[0] = 3.0
    assert one.params.gravity.tolist() == [3.0, *[9.0] * (N - 1)]
    assert other.params.gravity.tolist() == [9.0] * N
    assert one.params.length.tolist() == [0.5] * N
    assert tensor.tolist() == [1.0] * N


def test_dtypes_that_hold_the_numbers_are_taken() -> None:
    for value in (
        torch.full((N,), 9.0, dtype=torch.float64),
        torch.full((N,), 9),
        torch.tensor(9.0, dtype=torch.float16),
        np.full(N, 9.0),
        np.full(2 * N, 9.0)[::2],
        Exported(np.full(N, 9.0)),
        torch.full((N,), 9.0, requires_grad=True),
    ):
        env = CartPole(N, device="cpu", gravity=value)
        assert env.params.gravity.dtype == torch.float32
        assert env.params.gravity.requires_grad is False
        assert (env.params.gravity == 9.0).all()
    for dtype in (np.int8, np.uint8, np.uint16, np.uint32, np.uint64, np.int64):
        level = Tiles(N, device="cpu", level=np.full(N, 2, dtype)).params.level
        assert (level.dtype, level.tolist()) == (torch.int32, [2] * N)
    for number in (np.float16(9), np.float32(9), np.float64(9), np.int8(9), 9):
        assert CartPole(N, device="cpu", gravity=number).params.gravity == 9.0


def test_other_numbers_in_memory_need_no_new_program() -> None:
    """Thousands of environments with numbers of their own are then one program, not thousands."""

    def program_of(**params: Any) -> Any:
        env = make(CartPole, BACKENDS[1], **params)
        env.reset(seed=0)
        env.rollout(2)
        return env._backend._constants if HAS_TRITON else compiled.cache_info().misses

    def in_memory(number: float) -> dict[str, Any]:
        return {"gravity": torch.full((N,), number), "tau": torch.tensor(number), "length": "0.5..0.75"}

    first = program_of(**in_memory(8.0))
    assert [program_of(**in_memory(9.0)), program_of(**in_memory(10.0))] == [first, first]
    assert program_of(gravity=8.125) != program_of(gravity=9.125)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name.lower())
def test_drawn_parameters_change_with_their_episode_alone(backend: str, mode: AutoresetMode) -> None:
    ranges = {"gravity": Uniform(5, 15), "length": Choice(0.4, 0.5, 0.6), "masspole": LogUniform(0.05, 0.5)}
    env = make(CartPole, backend, num_envs=64, autoreset_mode=mode, max_episode_steps=5, **ranges)
    assert {name: getattr(env.given_params, name) for name in ranges} == ranges
    env.reset(seed=0)
    rng, seen = np.random.default_rng(0), set[float]()
    for _ in range(13):
        before = {name: getattr(env.params, name).clone() for name in ranges}
        episodes = env.state_dict()["columns"]["episode"]
        _, _, terminated, truncated, _ = env.step(random_actions(env, rng))
        if mode is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": terminated | truncated})
        begun = env.state_dict()["columns"]["episode"] > episodes
        for name, distribution in ranges.items():
            now = getattr(env.params, name)
            assert torch.equal(now[~begun], before[name][~begun])
            low, high = distribution.ends
            assert ((now >= torch.tensor(low)) & (now <= torch.tensor(high))).all()
        assert (env.params.gravity[begun] != before["gravity"][begun]).all()
        seen |= set(env.params.length.tolist())
    assert len(seen) == 3


def test_a_draw_depends_on_no_other_parameter() -> None:
    one = CartPole(N, device="cpu", gravity="5..15")
    other = CartPole(N, device="cpu", gravity="5..15", length="0.4,0.5", masspole=torch.full((N,), 0.1))
    for env in (one, other):
        env.reset(seed=7)
    assert torch.equal(one.params.gravity, other.params.gravity)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("definition", "params"), [(CartPole, CARTPOLE), (Tiles, TILES)], ids=["cartpole", "tiles"])
def test_states_twins_and_pickles_go_on_alike(backend: str, definition: Definition, params: dict[str, Any]) -> None:
    if backend == "numba" and definition is Tiles:
        backend = "numpy"
    env = make(definition, backend, **given(params, N))
    env.reset(seed=5)
    moved(env)
    restored = make(definition, backend, **given(params, N))
    restored.load_state_dict(env.state_dict())
    twins = [restored, copy.deepcopy(env), pickle.loads(pickle.dumps(env))] if definition is CartPole else [restored]
    expected = moved(env)
    for twin in twins:
        for mine, its in zip(env.given_params, twin.given_params, strict=True):
            assert torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its
        assert_same_tensors(moved(twin), expected)
        assert_same_tensors(everything(twin), everything(env))
    for name in env.state_dict()["memory"]:
        assert getattr(twins[0].params, name).data_ptr() != getattr(env.params, name).data_ptr()


def test_copies_have_what_was_written_though_no_one_could_give_it() -> None:
    env = Pendulum(N, device="cpu", l=torch.tensor(1.0), g=torch.full((N,), 9.0))
    env.reset(seed=0)
    env.params.l.fill_(-1.0)
    env.params.g[2] = float("nan")
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert float(twin.params.l) == -1.0
        torch.testing.assert_close(twin.params.g, env.params.g, equal_nan=True)


def test_other_parameters_and_states_cannot_be_put_in_place_of_the_live_ones() -> None:
    env = Pendulum(N, device="cpu", g=Uniform(5, 15))
    for name in ("params", "state"):
        with pytest.raises(AttributeError):
            setattr(env, name, getattr(env, name))


def test_a_state_of_other_parameters_is_refused() -> None:
    env = CartPole(N, device="cpu", gravity="5..15")
    for other in (
        {},
        {"gravity": 9.8},
        {"gravity": "5..14"},
        {"gravity": torch.tensor(9.8)},
        {"gravity": torch.ones(N)},
    ):
        with pytest.raises(InvalidConfig, match=r"params\['gravity'\] is .*, expected '5\.\.15'"):
            env.load_state_dict(CartPole(N, device="cpu", **other).state_dict())
    broken = env.state_dict()
    broken["memory"] = {}
    with pytest.raises(InvalidConfig, match=r"memory\['gravity'\] is missing"):
        env.load_state_dict(broken)


def test_gymnasium_makes_them() -> None:
    gravity = np.linspace(1, 20, N)
    env = gymnasium.make_vec(
        "operant_gpu/CartPole-v1", N, device="cpu", gravity=gravity, masspole="0.05..0.2", length=Normal(0.5, 0.05)
    )
    env.reset(seed=0)
    assert torch.equal(env.unwrapped.params.gravity, torch.as_tensor(gravity, dtype=torch.float32))
    assert len(set(env.unwrapped.params.masspole.tolist())) == N
    env.close()


def test_pictures_have_the_numbers_of_their_row() -> None:
    seen = []

    def draw(state: Any, params: Any) -> np.ndarray[Any, Any]:
        seen.append(params)
        return np.zeros((2, 2, 3), np.uint8)

    definition = Environment(**{**vars(CartPole), "id": "Drawn-v0", "draw": draw})
    env = definition(
        3, device="cpu", gravity=torch.tensor([1.0, 2.0, 3.0]), tau=torch.tensor(0.25), render_mode="rgb_array"
    )
    env.reset(seed=0)
    env.render([2, 0])
    assert [(type(one), one.gravity, one.tau, one.length) for one in seen] == [
        (definition.params, 3.0, 0.25, 0.5),
        (definition.params, 1.0, 0.25, 0.5),
    ]


def test_others_like_these_have_the_same_parameters() -> None:
    env = CartPole(N, device="cpu", gravity=torch.arange(1.0, N + 1), tau=torch.tensor(0.02), length="0.4,0.5")
    found = env.parameters(4)
    assert found["gravity"].tolist() == [1, 3, 5, 7]
    assert env.parameters(2 * N)["gravity"].tolist() == [place // 2 + 1.0 for place in range(2 * N)]
    assert (found["tau"].shape, found["length"], found["masscart"]) == ((), Choice(0.4, 0.5), 1.0)


# ------------------------------------------------------------------------------------------------------ what is refused


class OddState(NamedTuple):
    board: Array(tl.float32, (3,))
    x: tl.int32


class OddParams(NamedTuple):
    size: int = 3
    level: float = 2.0
    loops: int = 2


@jit
def odd_reset(rng, params):
    return OddState(tl.where(cells(3) == 0, 0.0, 1.0), integers(rng, 0, 0, 4))


@jit
def odd_step(state, action, rng, params):
    total = state.x
    for _ in tl.static_range(params.loops):
        total += 1
    if params.level > 1.5:
        total += 1
    return OddState(state.board, total), 1.0, False


@jit
def odd_observe(state, params):
    return (state.board * 2.0,)


@jit
def meeting_observe(state, params):
    return (state.board * params.level,)


@jit
def meeting_step(state, action, rng, params):
    return state, 1.0, False


ODD = {
    "id": "Odd-v0",
    "state": OddState,
    "params": OddParams,
    "reset": odd_reset,
    "step": odd_step,
    "observe": odd_observe,
    "observation_space": lambda params: spaces.Box(-np.inf, np.inf, (params.size,)),
    "action_space": spaces.Discrete(2),
}
Odd = Environment(**ODD)
Meeting = Environment(**{**ODD, "id": "Meeting-v0", "step": meeting_step, "observe": meeting_observe})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", [torch.full((N,), 3), torch.tensor(3), Uniform(3, 4)], ids=["own", "shared", "drawn"])
@pytest.mark.parametrize(
    ("definition", "name", "message"),
    [
        (
            Odd,
            "size",
            r"size: observation_space reads it, .*test_parameters\.py:\d+: `.*params\.size.*`, .*be a number",
        ),
        (
            Odd,
            "loops",
            r"loops: cannot be in memory, .*test_parameters\.py:\d+, in odd_step: `.*params\.loops.*: give a",
        ),
        (
            Odd,
            "level",
            r"level: cannot be in memory, .*test_parameters\.py:\d+, in odd_step: `if params\.level > 1\.5:`",
        ),
        (
            Meeting,
            "level",
            r"level: .*in meeting_observe: `.*state\.board \* params\.level.*`.*beside\(params\.level\)",
        ),
    ],
    ids=["space", "loop", "if", "array"],
)
def test_what_must_be_a_number_is_refused_by_name_and_line(
    definition: Environment, name: str, message: str, form: Any, backend: str
) -> None:
    value = form.float() if name == "level" and isinstance(form, torch.Tensor) else form
    others = {"level": torch.full((N,), 2.0)} if (definition, name) == (Odd, "size") else {}
    with pytest.raises(InvalidConfig, match=message) as caught:
        make(definition, "numpy" if backend == "numba" else backend, **{**others, name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    "read",
    [
        lambda params: params.size,
        lambda params: params[0],
        lambda params: params[:2],
        lambda params: params._asdict()["size"],
        lambda params: params._replace(loops=2).size,
        lambda params: 3 in params,
        lambda params: params == OddParams(),
        lambda params: params != OddParams(),
        lambda params: hash(params),
        lambda params: str(params),
        lambda params: next(iter(params)),
        lambda params: getattr(params, "size", 3),
    ],
)
def test_every_way_of_reading_is_noticed_with_its_line(read: Any) -> None:
    seen = []

    def space(params: Any) -> spaces.Box:
        seen.append(read(params))
        return spaces.Box(-1, 1, (3,))

    definition = Environment(**{**ODD, "observation_space": space})
    message = (
        r"size: observation_space reads it, .*test_parameters\.py:\d+: `lambda params: .*`, so it must be a number"
    )
    with pytest.raises(InvalidConfig, match=message):
        make(definition, "numpy", size="3..4")
    assert not seen


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gravity", torch.ones(N + 1), r"gravity: expected a tensor \(\) for all .*, or \(8,\) for each, got \(9,\)"),
        ("gravity", torch.ones(N, 1), r"expected a tensor \(\) .* or \(num_envs,\) for each, got \(8, 1\) on cpu"),
        ("gravity", torch.ones(0), r"got \(0,\) on cpu"),
        ("gravity", torch.ones(N, device="meta"), r"gravity: .* got \(8,\) on meta"),
        ("gravity", torch.ones(N, dtype=torch.bool), r"expected a tensor of torch\.float32 .*, got torch\.bool"),
        ("gravity", torch.ones(N, dtype=torch.complex64), r"a tensor of torch\.float32 .*, got torch\.complex64"),
        ("gravity", np.array(["a"] * N), r"gravity: cannot be read as a tensor"),
        ("gravity", torch.tensor([1.0, float("nan")] * 4), r"gravity: expected finite numbers, got nan at 1"),
        ("gravity", torch.tensor(float("inf")), r"gravity: expected finite numbers, got inf at 0"),
        ("gravity", torch.ones(N).to_mkldnn(), r"expected a tensor \(\) .* for each, got one of torch\._mkldnn"),
        ("gravity", np.array([1e300] * N), r"gravity: expected finite numbers, got 1e\+300 at 0"),
        ("gravity", [1.0] * N, r"number \(default 9\.8\), a tensor or array of them, or a range .*, got \[1\.0, .*"),
        ("gravity", "15..5", r"gravity: Uniform\(low=15, high=5\) is no range"),
        ("gravity", "5..inf", r"gravity: Uniform\(low=5, high=inf\) has inf where it needs a finite number"),
        ("gravity", "five", r"a finite number \(default 9\.8\), a tensor .*, or a range such as .*, got 'five'"),
        ("gravity", Choice(True, False), r"gravity: Choice\(True, False\) has a value that is not float"),
        ("sutton_barto_reward", Uniform(0, 1), r"Uniform\(low=0, high=1\) is for parameters that are floats"),
        ("sutton_barto_reward", torch.ones(N), r"expected a tensor of torch\.bool .*, got torch\.float32"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message) as caught:
        CartPole(N, device="cpu", **{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((N,), 10.5), r"expected a tensor of torch\.int32 for an integer each, got torch\.float32"),
        (torch.full((N,), 2**40), r"expected integers of 32 bits, got 1099511627776 to 1099511627776"),
        (np.full(N, 2**64 - 5, np.uint64), r"expected integers of 32 bits, got -5 to -5"),
        ("2.5..7", r"is for an integer of 32 bits here: give whole numbers"),
        ("log:1..7", r"is for parameters that are floats, this one is int: use Uniform or Choice"),
        ("2.5,3", r"has a value that is not int"),
    ],
)
def test_integers_are_refused_where_they_are_none(value: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        Tiles(N, device="cpu", level=value)


@pytest.mark.parametrize(
    "value", [torch.tensor([0.5, -1.0] * 4), torch.tensor(-0.5), Uniform(-1, 1), Normal(0.5, 0.5), Choice(0.5, 0.0)]
)
def test_the_least_and_the_greatest_are_validated(value: Any) -> None:
    with pytest.raises(InvalidConfig, match="length"):
        CartPole(N, device="cpu", length=value)
    CartPole(N, device="cpu", length=value * 0 + 1 if isinstance(value, torch.Tensor) else Uniform(1, 2))


# ----------------------------------------------------------------------------------------------------- staggered starts


@pytest.mark.parametrize("backend", BACKENDS)
def test_episodes_begin_as_if_steps_had_been_taken(backend: str) -> None:
    env = make(Pendulum, backend, max_episode_steps=10)
    env.reset(seed=0, options={"elapsed": torch.arange(N)})
    ends = []
    for _ in range(10):
        *_, truncated, info = env.step(torch.zeros(N, 1))
        ends.append(truncated.clone())
        assert (info["episode"]["l"][truncated] == 10).all()
    assert torch.stack(ends).int().argmax(0).tolist() == [9 - place for place in range(N)]
    # Those that follow are whole.
    assert torch.stack(ends).sum() == N


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_steps_are_those_of_the_stream_and_spread(backend: str) -> None:
    env = make(Pendulum, backend, num_envs=2_000)
    env.reset(seed=4, options={"elapsed": "random"})
    elapsed = env.state_dict()["columns"]["elapsed"]
    assert (int(elapsed.min()), int(elapsed.max())) == (0, 199)
    assert float(elapsed.float().mean()) == pytest.approx(99.5, abs=4)
    part = make(Pendulum, backend, num_envs=7, first_env_id=1_200)
    part.reset(seed=4, options={"elapsed": "random"})
    assert torch.equal(part.state_dict()["columns"]["elapsed"], elapsed[1_200:1_207])
    mask = torch.arange(2_000) % 2 == 0
    env.reset(options={"elapsed": 5, "reset_mask": mask})
    after = env.state_dict()["columns"]["elapsed"]
    assert (after[mask] == 5).all()
    assert torch.equal(after[~mask], elapsed[~mask])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elapsed": 200}, r"elapsed must be from 0 to 199, got 200 to 200"),
        ({"elapsed": -1}, r"elapsed must be from 0 to 199, got -1 to -1"),
        ({"elapsed": 2**64}, r"elapsed must be from 0 to 199, got 18446744073709551616 to"),
        ({"elapsed": torch.tensor(200)}, r"elapsed must be from 0 to 199, got 200 to 200"),
        ({"elapsed": 1.5}, r"elapsed must be"),
        ({"elapsed": torch.arange(N + 1)}, r"elapsed must be integers of shape \(8,\), got torch\.int64 \(9,\)"),
        ({"elapsed": torch.ones(N)}, r"elapsed must be integers of shape \(8,\), got torch\.float32 \(8,\)"),
        ({"elapsed": "sometimes"}, r"expected 'random' as elapsed, or steps, got 'sometimes'"),
        ({"elapsd": 3}, r"unknown option \['elapsd'\]: there are 'reset_mask', 'elapsed'"),
    ],
)
def test_other_steps_are_refused(options: dict[str, Any], message: str) -> None:
    env = Pendulum(N, device="cpu")
    env.reset(seed=0)
    before = everything(env)
    with pytest.raises(InvalidConfig, match=message):
        env.reset(options=options)
    assert_same_tensors(everything(env), before)


def test_without_a_limit_there_is_nothing_to_reach() -> None:
    env = Pendulum(N, device="cpu", max_episode_steps=-1)
    with pytest.raises(InvalidConfig, match="elapsed needs a time limit: give max_episode_steps"):
        env.reset(options={"elapsed": "random"})


def test_a_maker_of_parts_gives_parts() -> None:
    """The matrix compares batches with their parts: the environments that it has must be such."""
    whole, part = (varied(CartPole, **CARTPOLE)(n, first_env_id=first, device="cpu") for n, first in ((9, 0), (3, 4)))
    assert torch.equal(whole.params.gravity[4:7], part.params.gravity)


def test_a_cuda_environment_says_what_must_be_a_number() -> None:
    from contract_envs import CUDA_MAKERS

    try:
        CUDA_MAKERS["CudaCartPole-v1"](2, device="cpu")
    except BackendError as error:
        pytest.skip(str(error))
    with pytest.raises(InvalidConfig, match=r"(?s)masspole is in memory: what is read while the file compiles must"):
        CUDA_MAKERS["CudaCartPole-v1"](2, device="cpu", masspole=torch.tensor(0.2))
    env = CUDA_MAKERS["CudaCartPole-v1"](2, device="cpu", gravity=torch.tensor([1.0, 2.0]))
    assert operant_gpu.VecEnv is type(env)


def own_cartpole(file: Path, code: str) -> CudaEnvironment:
    """Return CartPole in CUDA C++ with more in its file."""
    text = (cuda_twins.FOLDER / "cartpole.cu").read_text()
    file.write_text(f"{code}\n{text}")
    return dataclasses.replace(cuda_twins.twin(CartPole, "cartpole.cu"), id="OwnCartPole-v0", source=file)


needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")


@needs_compiler
@pytest.mark.parametrize("gravity", ["5..15", "log:5..15", "normal:10,2", "8,9,10"])
def test_draws_call_no_function_of_the_authors(gravity: str, tmp_path: Path) -> None:
    names = ["unit(uint32_t)", "word(const Rng&, int)", "fmaxf(const Rng&, int)"]
    helpers = "\n".join(f"__device__ inline float {name} {{ return 0; }}" for name in names)
    own = own_cartpole(tmp_path / "own.cu", helpers)
    envs = [definition(64, device="cpu", gravity=gravity) for definition in (own, CartPole)]
    for env in envs:
        env.reset(seed=3)
    torch.testing.assert_close(envs[0].params.gravity, envs[1].params.gravity, rtol=1e-6, atol=0)


@needs_compiler
def test_parameters_that_an_author_makes_are_refused_where_some_are_in_memory(tmp_path: Path) -> None:
    """They would have no values there."""
    helper = "__device__ inline float weight() { return Params().gravity; }"
    environment = own_cartpole(tmp_path / "own.cu", helper)
    environment(2, device="cpu")
    with pytest.raises(InvalidConfig, match=r"(?s)gravity is in memory"):
        environment(2, device="cpu", gravity="5..15")
