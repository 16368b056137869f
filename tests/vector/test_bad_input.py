"""Settings and calls that make no sense are refused with advice, and change nothing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import assert_same_tensors, everything
from hypothesis import given, settings
from hypothesis import strategies as st

import operant_gpu
from operant_gpu import AutoresetMode, BackendError, InvalidConfig, OperantError, ResetNeeded, VecEnv
from operant_gpu.envs import CartPole, GridWalk, Pendulum

pytestmark = pytest.mark.quick

N = 4


def cartpole(**options: Any) -> VecEnv:
    return CartPole(N, **{"device": "cpu", "backend": "numpy", **options})


@contextlib.contextmanager
def refused(kind: type[OperantError], env: VecEnv | None = None, match: str | None = None) -> Iterator[None]:
    """Expect an error of this kind, one line of text, that leaves the environment as it was."""
    before = everything(env) if env else {}
    with pytest.raises(kind, match=match) as raised:
        yield
    assert "\n" not in str(raised.value)
    if env:
        assert_same_tensors(before, everything(env))


NOT_A_COUNT = [0, -1, 2**31, 10**30, True, 4.5, 0.0, math.nan, math.inf, "4", None, [4], np.float32(4.5)]


@pytest.mark.parametrize("num_envs", NOT_A_COUNT, ids=repr)
def test_a_number_of_environments_is_an_integer_from_one_on(num_envs: Any) -> None:
    with refused(InvalidConfig, match="num_envs: expected") as _:
        CartPole(num_envs, device="cpu")


def test_more_environments_than_fit_into_memory_are_refused_with_what_fits() -> None:
    with refused(InvalidConfig, match=r"num_envs: .* GiB.*: at most \d+ fit"):
        CartPole(2**31 - 1, device="cpu")


@pytest.mark.parametrize(
    ("name", "value", "kind", "advice"),
    [
        ("device", "gpu", InvalidConfig, "'cpu', 'cuda'"),
        ("device", "meta", InvalidConfig, "'cpu', 'cuda'"),
        ("device", 3.5, InvalidConfig, "'cpu', 'cuda'"),
        ("device", None, InvalidConfig, "'cpu', 'cuda'"),
        ("backend", "jax", InvalidConfig, "'numba' or 'numpy'"),
        ("backend", None, InvalidConfig, "'numba' or 'numpy'"),
        ("output", "jax", InvalidConfig, "'torch', 'numpy' or 'cupy'"),
        ("output", "cupy", InvalidConfig, "use 'torch' or 'numpy'"),
        ("output", None, InvalidConfig, "'torch', 'numpy' or 'cupy'"),
        ("autoreset_mode", "sometimes", InvalidConfig, "'NEXT_STEP', 'SAME_STEP' or 'DISABLED'"),
        ("autoreset_mode", "same_stop", InvalidConfig, "did you mean 'SAME_STEP'?"),
        ("autoreset_mode", None, InvalidConfig, "'NEXT_STEP'"),
        ("render_mode", "human", InvalidConfig, "'rgb_array'"),
        ("max_episode_steps", 0, InvalidConfig, "-1 for no limit"),
        ("max_episode_steps", -2, InvalidConfig, "-1 for no limit"),
        ("max_episode_steps", 2**31, InvalidConfig, "-1 for no limit"),
        ("max_episode_steps", True, InvalidConfig, "-1 for no limit"),
        ("max_episode_steps", 10.5, InvalidConfig, "-1 for no limit"),
        ("first_env_id", -1, InvalidConfig, f"from 0 to {2**31 - N}"),
        ("first_env_id", 2**31 - N + 1, InvalidConfig, f"from 0 to {2**31 - N}"),
        ("first_env_id", True, InvalidConfig, "an integer from 0"),
        ("first_env_id", "0", InvalidConfig, "an integer from 0"),
    ],
    ids=lambda value: repr(value) if not isinstance(value, type) else value.__name__,
)
def test_a_setting_that_makes_no_sense_is_refused(name: str, value: Any, kind: type[OperantError], advice: str) -> None:
    with pytest.raises(kind) as raised:
        cartpole(**{name: value})
    assert advice in str(raised.value)
    assert raised.value.param == name
    assert repr(value) in str(raised.value) or str(value) in str(raised.value) or name == "output"


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        *(
            ("autoreset_mode", mode, AutoresetMode.SAME_STEP)
            for mode in ("SameStep", "same_step", "SAME-STEP", "same step")
        ),
        ("autoreset_mode", "next-step", AutoresetMode.NEXT_STEP),
        ("autoreset_mode", "Disabled", AutoresetMode.DISABLED),
        ("output", "NumPy", "numpy"),
        ("backend", "NumPy", "numpy"),
        ("device", "CPU", torch.device("cpu")),
        ("render_mode", "RGB-array", "rgb_array"),
    ],
)
def test_names_are_taken_in_any_case_and_with_any_hyphens(name: str, given: str, meant: Any) -> None:
    assert getattr(cartpole(**{name: given}), name) == meant


def test_whole_floats_are_whole_numbers() -> None:
    env = GridWalk(4e0, device="cpu", max_episode_steps=1e2, first_env_id=np.float32(7), grid_size=8.0)
    assert (env.num_envs, env.max_episode_steps, env.params.grid_size) == (4, 100, 8)
    assert isinstance(env.num_envs, int)
    twin = GridWalk(4, device="cpu", max_episode_steps=100, first_env_id=7, grid_size=8)
    for one, seed in ((env, 3.0), (twin, 3)):
        one.reset(seed=seed)
        one.rollout(5.0 if one is env else 5)
    assert_same_tensors(everything(env), everything(twin))
    for one, seeds in ((env, [1.0, None, np.float64(2), 3]), (twin, [1, None, 2, 3])):
        one.reset(seed=seeds)
    assert_same_tensors(everything(env), everything(twin))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_a_backend_error() -> None:
    for device in ("cuda", "cuda:7", "CUDA:7"):
        with refused(BackendError, match='use device="cpu"'):
            CartPole(N, device=device)


def test_unknown_ids_are_refused_with_the_nearest_and_all_known() -> None:
    with refused(InvalidConfig, match=r"did you mean 'CartPole-v1'\? registered: .*Pendulum-v1"):
        operant_gpu.make("CARTPOLE-V1")
    for wrong in ("nothing like it", None, 7, ["CartPole-v1"]):
        with refused(InvalidConfig, match="registered: .*CartPole-v1"):
            operant_gpu.make(wrong)


def test_unknown_parameters_are_refused_with_the_nearest_and_all_known() -> None:
    with refused(InvalidConfig, match=r"gravitty: .*did you mean 'gravity'\?.*masscart.*num_envs"):
        cartpole(gravitty=9.8)
    with refused(InvalidConfig, match=r"bakend: .*did you mean 'backend'\?"):
        cartpole(bakend="numpy")
    for elsewhere, here in (
        ("n_envs", "num_envs"),
        ("numEnvs", "num_envs"),
        ("max_episode_length", "max_episode_steps"),
    ):
        with refused(InvalidConfig, match=rf"{elsewhere}: .*did you mean '{here}'\?"):
            operant_gpu.make("CartPole-v1", **{elsewhere: 4})


@given(
    value=st.one_of(
        st.none(), st.text("abxyz ,.:-"), st.booleans(), st.sampled_from([math.nan, math.inf, -math.inf, 1j, [9.8]])
    )
)
@settings(deadline=None, max_examples=30)
def test_a_float_parameter_is_a_finite_number(value: Any) -> None:
    with refused(InvalidConfig, match="^gravity: expected a finite number"):
        cartpole(gravity=value)


@given(
    value=st.one_of(
        st.none(), st.text("abxyz ,.:-"), st.booleans(), st.floats().filter(lambda value: not value.is_integer())
    )
)
@settings(deadline=None, max_examples=30)
def test_an_integer_parameter_is_an_integer(value: Any) -> None:
    with refused(InvalidConfig, match="^grid_size: expected an integer"):
        GridWalk(N, device="cpu", grid_size=value)


@pytest.mark.parametrize(
    ("environment", "params"),
    [
        (CartPole, {"masspole": -0.1}),
        (CartPole, {"length": 0.0}),
        (CartPole, {"sutton_barto_reward": 1}),
        (CartPole, {"tau": 10**400}),
        (GridWalk, {"grid_size": 1}),
        (GridWalk, {"grid_size": 40_000}),
        (Pendulum, {"max_torque": -2.0}),
    ],
    ids=lambda value: getattr(value, "id", None) or next(iter(value)),
)
def test_parameters_out_of_range_are_refused(environment: Any, params: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match="expected") as raised:
        environment(N, device="cpu", backend="numpy", **params)
    assert raised.value.param == next(iter(params))


def test_a_step_before_the_first_reset_is_refused(backend: str) -> None:
    env = cartpole(backend=backend)
    for call in (lambda: env.step(torch.zeros(N, dtype=torch.int32)), env.observe):
        with refused(ResetNeeded, env, "reset"):
            call()
    with refused(InvalidConfig, env, "the first reset takes every environment"):
        env.reset(options={"reset_mask": torch.ones(N, dtype=torch.bool)})


def test_a_closed_environment_takes_no_calls() -> None:
    env = cartpole()
    env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.step(torch.zeros(N, dtype=torch.int32)), env.reset, env.observe):
        with refused(ResetNeeded, env, "is closed: make a new one"):
            call()


NOT_SEEDS = [
    -1,
    2**63,
    True,
    1.5,
    "1",
    [1, 2, 3],
    [1, 2, 3, -4],
    [1, 2, 3, 2**63],
    [True] * N,
    [0.5] * N,
    {1: 2},
    object(),
]


@pytest.mark.parametrize("seed", NOT_SEEDS, ids=lambda seed: type(seed).__name__)
def test_seeds_are_integers_below_two_to_the_63(seed: Any) -> None:
    env = cartpole()
    env.reset(seed=1)
    with refused(InvalidConfig, env, "^seed: expected"):
        env.reset(seed=seed)


@pytest.mark.parametrize(
    "options",
    [
        {"reset_mask": torch.ones(N)},
        {"reset_mask": torch.ones(N, dtype=torch.int32)},
        {"reset_mask": torch.ones(N + 1, dtype=torch.bool)},
        {"reset_mask": torch.ones(N, 1, dtype=torch.bool)},
        {"reset_mask": [True]},
        {"reset_mask": "all"},
        {"reset_mask": True},
        {"reset_masks": torch.ones(N, dtype=torch.bool)},
        {"low": -0.1, "high": 0.1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_other_than_a_reset_mask_are_refused(options: dict[str, Any]) -> None:
    env = cartpole()
    env.reset(seed=1)
    with refused(InvalidConfig, env, "^options: .*reset_mask"):
        env.reset(seed=2, options=options)


@pytest.mark.parametrize(
    "out",
    [
        {"observation": torch.zeros(N, 4)},
        {"obs": torch.zeros(4, N)[:, :3]},
        {"obs": torch.zeros(N, 4, dtype=torch.float64)},
        {"obs": np.zeros((N, 4), np.float32)},
        {"obs": torch.zeros(N, 4, device="meta")},
        {"final_obs": torch.zeros(N)},
        {"reward": torch.zeros(N, 1)},
        {"reward": None},
        {"reward": torch.zeros(N), "terminated": torch.zeros(N)},
        {"truncated": torch.zeros(N, dtype=torch.uint8)},
        {"obs": torch.zeros(1, 4).expand(N, 4)},
        dict.fromkeys(("obs", "final_obs"), torch.zeros(N, 4)),
        {None: torch.zeros(N)},
    ],
    ids=lambda out: str(list(out)[-1]),
)
def test_outputs_that_do_not_fit_are_refused(out: dict[str, Any]) -> None:
    env = cartpole()
    env.reset(seed=1)
    name = list(out)[-1]
    with refused(InvalidConfig, env, f"^out: .*{name or 'unknown output of type NoneType'}"):
        env.step(torch.zeros(N, dtype=torch.int32), out=out)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED], ids=lambda mode: mode.name)
def test_a_separate_final_observation_is_refused_where_there_is_none(mode: AutoresetMode) -> None:
    env = cartpole(autoreset_mode=mode)
    env.reset(seed=1)
    with refused(InvalidConfig, env, "final_obs is obs itself"):
        env.step(torch.zeros(N, dtype=torch.int32), out={"final_obs": torch.zeros(N, 4)})


@pytest.mark.parametrize("change", ["id", "params", "num_envs", "format", "columns", "state", "dtype"])
def test_a_state_of_other_environments_is_refused(change: str) -> None:
    env = cartpole()
    env.reset(seed=1)
    saved = env.state_dict()
    if change in ("columns", "state"):
        saved[change] = dict(list(saved[change].items())[1:])
    elif change == "dtype":
        saved["state"]["theta"] = saved["state"]["theta"].double()
    else:
        saved[change] = None
    # What does fit differs, and must not be taken over either.
    saved.get("state", {}).get("x_dot", torch.zeros(1)).add_(1.0)
    with refused(InvalidConfig, env, "^state_dict: "):
        env.load_state_dict(saved)


WRONG_KINDS = {
    "number": 5,
    "nan": math.nan,
    "text": "x",
    "object": object(),
    "list": ["x"],
    "class": VecEnv,
    "function": lambda *_: None,
    "tensor": torch.zeros(2, 2, requires_grad=True),
    "array": np.array([None, {}]),
    "memoryless": torch.zeros(N, device="meta"),
}
# By what is given and the setting that the error names.
CALLS: dict[tuple[str, str], Callable[[VecEnv, Any], Any]] = {
    ("a seed", "seed"): lambda env, wrong: env.reset(seed={1: wrong}),
    ("options", "options"): lambda env, wrong: env.reset(options=wrong),
    ("an option", "options"): lambda env, wrong: env.reset(options={wrong: 1, "low": 1, 2: 3}),
    ("a mask", "options"): lambda env, wrong: env.reset(options={"reset_mask": wrong}),
    ("out", "out"): lambda env, wrong: env.step([0] * N, out=wrong),
    ("an output", "out"): lambda env, wrong: env.step([0] * N, out={"obs": wrong}),
    ("a rollout's out", "out"): lambda env, wrong: env.rollout(2, out={"obs": wrong}),
    ("steps", "num_steps"): lambda env, wrong: env.rollout([wrong]),
    ("a state", "state_dict"): lambda env, wrong: env.load_state_dict(wrong),
    ("columns", "state_dict"): lambda env, wrong: env.load_state_dict({**env.state_dict(), "columns": wrong}),
    ("a column", "state_dict"): lambda env, wrong: env.load_state_dict({**env.state_dict(), "state": {"x": wrong}}),
    ("an id", "state_dict"): lambda env, wrong: env.load_state_dict({**env.state_dict(), "id": wrong}),
    ("a start", "state_dict"): lambda env, wrong: env.load_state_dict({**env.state_dict(), "started": wrong}),
    ("indices", "indices"): lambda env, wrong: env.render([wrong]),
    ("clear", "clear"): lambda env, wrong: env.get_logs(clear=wrong),
    ("a definition", "environment"): lambda env, wrong: VecEnv(wrong, N),
    ("parameters", "params"): lambda env, wrong: VecEnv(CartPole, N, params=wrong, device="cpu"),
    ("parameters beside others", "params"): lambda env, wrong: CartPole(N, params=wrong, device="cpu", gravity=1.0),
    ("copy", "copy"): lambda env, wrong: cartpole(copy=wrong),
    ("debug", "debug"): lambda env, wrong: cartpole(debug=wrong),
    ("a device", "device"): lambda env, wrong: cartpole(device=[wrong]),
    ("a limit", "max_episode_steps"): lambda env, wrong: cartpole(max_episode_steps=[wrong]),
    ("an id of an environment", "id"): lambda env, wrong: operant_gpu.make(wrong),
    ("what is registered", "environment"): lambda env, wrong: operant_gpu.register(wrong),
}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_what_is_of_a_wrong_kind_is_refused_by_name(call: tuple[str, str]) -> None:
    env = cartpole(render_mode="rgb_array")
    env.reset(seed=1)
    for wrong in WRONG_KINDS.values():
        if call[0] == "an option" and not isinstance(wrong, Hashable):
            continue
        with refused(InvalidConfig, env, f"^{call[1]}: "):
            CALLS[call](env, wrong)


def test_parameters_may_be_given_as_a_dictionary() -> None:
    assert cartpole(params={"gravity": 1.0, "tau": 0.5}, gravity=2.0).params == cartpole(gravity=2.0, tau=0.5).params


def test_arrays_and_lists_do_as_well_as_tensors() -> None:
    env, twin = cartpole(), cartpole()
    env.reset(seed=np.array([4, 5, 6, 7], ">i8"))
    twin.reset(seed=[4, 5, 6, 7])
    mask = np.array([True, False, True, True])
    for form in (mask[::-1].copy()[::-1], mask.tolist(), [torch.tensor(bool(one)) for one in mask]):
        env.reset(seed=torch.tensor([1, 2, 3, 4]), options={"reset_mask": form})
        twin.reset(seed=[1, 2, 3, 4], options={"reset_mask": torch.from_numpy(mask)})
        assert_same_tensors(everything(env), everything(twin))
    twin.rollout(5)
    saved = twin.state_dict()
    # As files of NumPy keep them.
    big = {name: column.numpy().astype(">f4") for name, column in saved["state"].items()}
    env.load_state_dict({**saved, "state": big})
    assert_same_tensors(everything(env), everything(twin))


def test_a_with_statement_closes_the_environments() -> None:
    with cartpole() as env:
        env.reset(seed=1)
        saved = env.state_dict()
    assert env.closed
    for call in (env.reset, env.__enter__, lambda: env.load_state_dict(saved)):
        with pytest.raises(ResetNeeded, match="is closed: make a new one"):
            call()
    with pytest.raises(KeyError), cartpole() as env:
        raise KeyError
    assert env.closed


def test_one_environment_or_some_are_drawn() -> None:
    env = GridWalk(N, device="cpu", backend="numpy", render_mode="rgb_array")
    env.reset(seed=1)
    frames = env.render()
    for indices, expected in ((2, [2]), (np.array([0, 3]), [0, 3]), (torch.tensor([1]), [1]), (range(2), [0, 1])):
        drawn = env.render(indices)
        assert len(drawn) == len(expected)
        assert all((one == frames[index]).all() for one, index in zip(drawn, expected, strict=True))


@pytest.mark.parametrize("indices", [[N], [-1], [0, 1, 99]], ids=str)
def test_rendering_environments_that_are_not_there_is_refused(indices: list[int]) -> None:
    env = GridWalk(N, device="cpu", backend="numpy", render_mode="rgb_array")
    env.reset(seed=1)
    with refused(InvalidConfig, env, f"out of range: there are {N}"):
        env.render(indices)


def test_a_definition_in_place_of_a_name_is_told_how_it_is_made() -> None:
    with pytest.raises(InvalidConfig, match=r"^id: expected a name, got the definition of CartPole-v1: call it, as in"):
        operant_gpu.make(CartPole, 4)
