"""Settings of PPO: each rule, presets, TOML files."""

from __future__ import annotations

import inspect
import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.hyperparameters import Hyperparameters
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.presets import LARGE_PRESETS, PRESETS

pytestmark = pytest.mark.quick

SHIPPED = sorted(
    {value.id for value in vars(operant_gpu.envs).values() if isinstance(value, operant_gpu.environment.Definition)}
)

COUNTS = ["num_envs", "total_timesteps", "n_steps", "n_epochs", "batch_size", "log_interval"]
COUNTS += ["checkpoint_interval", "checkpoint_keep"]
POSITIVE = ["lr", "clip_eps", "vf_clip_eps", "max_grad_norm", "target_kl"]
NON_NEGATIVE = ["vf_coef", "ent_coef", "rnd_coef", "gru_size"]
FRACTIONS = ["gamma", "gae_lambda"]
FLAGS = [
    "staggered_starts",
    "scale_actions",
    "normalize_advantages",
    "normalize_observations",
    "normalize_rewards",
    "shared_trunk",
]
FLAGS += ["use_amp", "compile"]
WIDTHS = ["hidden_sizes", "cnn_channels"]
INTEGERS = [*COUNTS, "gru_size", "seed"]
SCHEDULES = list(Hyperparameters._fields)
NUMBERS = [*SCHEDULES, "log_std_init"]

OUT_OF_RANGE = [
    *((name, value) for name in COUNTS for value in (0, -1)),
    ("n_epochs", 65_536),
    *((name, value) for name in POSITIVE for value in (0.0, -1e-3)),
    *((name, -1) for name in NON_NEGATIVE),
    *((name, value) for name in FRACTIONS for value in (-1e-6, 1 + 1e-6)),
    *((name, value) for name in WIDTHS for value in ((0,), (64, -1))),
    *((name, (0.0, 0.5)) for name in POSITIVE),
    *((name, value) for name in SCHEDULES for value in ((0.5, -1e-3), (-1e-3, 0.5))),
    *((name, (1 + 1e-6, 0.5)) for name in FRACTIONS),
    ("seed", -1),
    ("seed", 2**63),
    ("activation", "sigmoid"),
    ("engine", "fast"),
    ("on_fault", "ignore"),
]
WRONG_TYPE = [
    *((name, value) for name in INTEGERS for value in (1.5, math.inf, math.nan, "1", True)),
    *((name, None) for name in INTEGERS if name != "batch_size"),
    *((name, value) for name in NUMBERS for value in ("0.1", True, (0.1,))),
    *((name, value) for name in SCHEDULES for value in ("falling", (0.1, 0.2, 0.3), (0.1, None), (0.1, math.inf))),
    *((name, value) for name in NUMBERS for value in (math.nan, math.inf, -math.inf)),
    *((name, None) for name in NUMBERS if name not in ("vf_clip_eps", "target_kl")),
    *((name, value) for name in FLAGS for value in (0, 1, "true", None)),
    *((name, value) for name in WIDTHS for value in (64, "64", (64.5,), (True,), {64: 64})),
    ("activation", None),
    ("activation", 1),
    ("engine", True),
    ("on_fault", False),
    ("checkpoint_dir", 1),
]
EDGES = [
    *((name, 1) for name in COUNTS if name != "batch_size"),
    *((name, 0) for name in NON_NEGATIVE),
    *((name, value) for name in FRACTIONS for value in (0, 1)),
    *((name, ()) for name in WIDTHS),
    *((name, value) for name in SCHEDULES for value in ((0.5, 0.5), (0.5, 0.0), "linear")),
    ("batch_size", 2),
    ("seed", 2**63 - 1),
    ("vf_clip_eps", None),
    ("target_kl", None),
    ("log_std_init", -3.0),
]


@pytest.mark.parametrize(("name", "value"), [*OUT_OF_RANGE, *WRONG_TYPE])
def test_a_value_that_makes_no_sense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=rf"^{name}: expected .*, got") as caught:
        PPOConfig(**{name: value})
    assert caught.value.param == name
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("name", "value"), EDGES)
def test_the_edge_of_a_rule_is_allowed(name: str, value: object) -> None:
    assert getattr(PPOConfig(**{name: value}), name) == value


def test_every_field_is_tested_above() -> None:
    tested = {*INTEGERS, *NUMBERS, *FLAGS, *WIDTHS, "activation", "engine", "on_fault", "checkpoint_dir"}
    assert tested == {setting.name for setting in fields(PPOConfig)}


def test_whole_floats_and_names_in_any_case_are_taken() -> None:
    widths = (64.0, np.int64(32))
    config = PPOConfig(total_timesteps=1e6, seed=np.float32(3), hidden_sizes=widths, engine="Eager", activation="ReLU")
    exact = {"total_timesteps": 1_000_000, "seed": 3, "hidden_sizes": (64, 32), "engine": "eager", "activation": "relu"}
    assert config == PPOConfig(**exact)
    assert [type(value) for value in (config.total_timesteps, config.seed, *config.hidden_sizes)] == [int] * 4


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        ("learning_rate", "lr"),
        ("clip_range_vf", "vf_clip_eps"),
        ("num_minibatches", "batch_size"),
        ("num_steps", "n_steps"),
        ("update_epochs", "n_epochs"),
        ("policy_kwargs", "hidden_sizes"),
        ("n_envs", "num_envs"),
        ("verbose", r"learn\(progress=True\)"),
        ("GAE-Lambda", "gae_lambda"),
    ],
)
def test_an_unknown_setting_is_refused_with_what_it_is_called_here(elsewhere: str, here: str) -> None:
    message = (
        rf"^{elsewhere}: unknown setting of PPO; did you mean '{here}'[^?]*\? settings: num_envs, .*checkpoint_keep$"
    )
    calls = (
        lambda: PPOConfig(**{elsewhere: 1}),
        lambda: PPOConfig.for_env("CartPole-v1", **{elsewhere: 1}),
        lambda: replace(PPOConfig(), **{elsewhere: 1}),
        lambda: PPO(operant_gpu.make("CartPole-v1", 4, device="cpu"), **{elsewhere: 1}),
    )
    for call in calls:
        with pytest.raises(InvalidConfig, match=message) as caught:
            call()
        assert caught.value.param == elsewhere


def test_the_names_of_settings_can_be_read_from_the_signature() -> None:
    assert list(inspect.signature(PPOConfig).parameters) == [setting.name for setting in fields(PPOConfig)]
    assert list(inspect.signature(PPO).parameters) == ["env", "config", "network", "intrinsic", "processes"]


def test_an_integer_beyond_all_floats_is_refused_by_name() -> None:
    with pytest.raises(InvalidConfig, match="lr"):
        PPOConfig(lr=10**400)


def test_values_come_out_in_the_type_of_their_field() -> None:
    config = PPOConfig(lr=1, vf_clip_eps=1, hidden_sizes=[8, 4], checkpoint_dir=Path("runs") / "one")
    assert [type(value) for value in (config.lr, config.vf_clip_eps)] == [float, float]
    lines = PPOConfig(lr=[1, 0.5], ent_coef="Linear")
    assert (lines.lr, lines.ent_coef) == ((1.0, 0.5), "linear")
    assert config.hidden_sizes == (8, 4)
    assert config.checkpoint_dir == str(Path("runs/one"))
    assert hash(config) == hash(replace(config))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("batch_size", {"batch_size": 1}),
        ("n_steps", {"gru_size": 8, "n_steps": 1}),
        ("batch_size", {"gru_size": 8, "n_steps": 64, "batch_size": 63}),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(name: str, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig, match=rf"^{name}: .*: raise it") as caught:
        PPOConfig(**changes)
    assert caught.value.param == name


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 1, "normalize_advantages": False},
        {"n_steps": 1},
        {"n_steps": 64, "batch_size": 63},
        {"gru_size": 8, "n_steps": 64, "batch_size": 64},
        {"gru_size": 8, "n_steps": 2},
        {"shared_trunk": True, "hidden_sizes": ()},
    ],
)
def test_neighbours_of_those_are_allowed(changes: dict[str, object]) -> None:
    PPOConfig(**changes)


def test_a_minibatch_larger_than_an_iteration_is_refused() -> None:
    config = PPOConfig(n_steps=8, batch_size=32)
    config.fitted(4)
    with pytest.raises(InvalidConfig, match=r"^batch_size: 32 is more than the 8 x 3 = 24 steps") as caught:
        config.fitted(3)
    assert caught.value.param == "batch_size"


@pytest.mark.parametrize(
    ("changes", "num_envs", "batch_size"),
    [
        ({}, 128, 512),
        ({}, 4, 128),
        ({"n_steps": 1}, 2, 2),
        ({"n_steps": 1, "normalize_advantages": False}, 1, 1),
        ({"gru_size": 8, "n_steps": 600}, 2, 600),
        ({"gru_size": 8}, 2, 64),
        ({"gru_size": 8}, 64, 512),
    ],
)
def test_a_batch_size_that_nobody_has_chosen_fits_the_environments(
    changes: dict[str, object], num_envs: int, batch_size: int
) -> None:
    config = PPOConfig(**changes)
    assert config.batch_size is None
    assert config.fitted(num_envs) == PPOConfig(**changes, batch_size=batch_size)


def test_an_iteration_of_one_step_names_what_makes_it_so() -> None:
    with pytest.raises(InvalidConfig, match=r"^n_steps: an iteration of one step .*: raise it or num_envs"):
        PPOConfig(n_steps=1).fitted(1)


@pytest.mark.parametrize("id", ["CartPole-v1", "MountainCar-v0", "Pendulum-v1", "Snake-v0"])
def test_a_preset_fits_fewer_environments(id: str) -> None:
    config, env = PPOConfig.for_env(id), operant_gpu.make(id, 2, device="cpu")
    for fitted in (PPO(env).config, PPO(env, config).config):
        assert fitted.batch_size == min(config.batch_size or 512, config.n_steps * 2)
        assert replace(fitted, batch_size=None) == replace(config, batch_size=None)
    with pytest.raises(InvalidConfig, match=r"^batch_size: 100000 is more than"):
        PPO(env, replace(config, batch_size=100_000))


def test_a_line_begins_at_the_usual_value() -> None:
    lines = {"lr": "linear", "gamma": "linear", "max_grad_norm": "linear", "hidden_sizes": (8,)}
    env = operant_gpu.make("Pendulum-v1", 2, device="cpu")
    for config in (PPOConfig(**lines), PPOConfig.for_env("Pendulum-v1", **lines)):
        begun = PPO(env, config).config
        assert (begun.lr, begun.gamma, begun.max_grad_norm) == ((2e-3, 0.0), (0.99, 0.0), (5.0, 0.0))
    # Another minibatch does not make it another preset.
    assert PPOConfig.for_env("CartPole-v1", size="large", lr="linear", batch_size=4096).lr == (8e-3, 0.0)
    begun = PPO(operant_gpu.make("CartPole-v1", 2, device="cpu"), PPOConfig(**lines)).config
    assert (begun.lr, begun.gamma, begun.max_grad_norm) == ((4e-3, 0.0), (0.99, 0.0), (0.5, 0.0))


@pytest.mark.parametrize(("name", "usual"), [("ent_coef", "0.0"), ("target_kl", "None")])
def test_a_line_that_has_no_beginning_is_refused(name: str, usual: str) -> None:
    message = rf"^{name}: 'linear' falls from the usual value to 0, and that is {usual}: give \(start, end\)"
    with pytest.raises(InvalidConfig, match=message):
        PPO(operant_gpu.make("CartPole-v1", 2, device="cpu"), PPOConfig(**{name: "linear"}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ent_coef", "settings stay as they were made: .* learner.hyperparameters.ent_coef = 0.5"),
        ("n_steps", r"settings stay as they were made: make others with dataclasses.replace\(config, n_steps=0.5\)$"),
        ("ent_coeff", "unknown setting of PPO; did you mean 'ent_coef'"),
    ],
)
def test_who_writes_a_setting_is_told_how(name: str, message: str) -> None:
    config = PPOConfig()
    with pytest.raises(InvalidConfig, match=f"^{name}: {message}"):
        setattr(config, name, 0.5)
    assert config == PPOConfig()


POSITIVE_FLOATS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
NON_NEGATIVE_FLOATS = st.floats(min_value=0, allow_infinity=False)
LINES = st.just("linear") | st.tuples(st.floats(0.01, 1), st.floats(0, 1))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALID = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.integers(2, 10**12) for name in COUNTS},
        "n_epochs": st.integers(2, 65_535),
        **dict.fromkeys(POSITIVE, POSITIVE_FLOATS | LINES),
        **{name: st.none() | POSITIVE_FLOATS | LINES for name in ("vf_clip_eps", "target_kl")},
        **dict.fromkeys(("vf_coef", "ent_coef", "rnd_coef"), NON_NEGATIVE_FLOATS | LINES),
        **{name: st.floats(0, 1) | LINES for name in FRACTIONS},
        **{name: st.booleans() for name in FLAGS},
        **{name: st.lists(st.integers(1, 10**6), max_size=4).map(tuple) for name in WIDTHS},
        "activation": st.sampled_from(["tanh", "relu", "elu", "silu", "gelu"]),
        "engine": st.sampled_from(["auto", "fused", "graph", "eager"]),
        "on_fault": st.sampled_from([None, "stop", "skip"]),
        "log_std_init": st.floats(allow_nan=False, allow_infinity=False),
        "seed": st.integers(0, 2**63 - 1),
        "checkpoint_dir": st.none() | TEXT.filter(lambda text: text.lower() != "none"),
    },
)


@given(changes=VALID)
@settings(max_examples=200, deadline=None)
def test_a_written_file_reads_back_as_the_same_settings(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object]
) -> None:
    config = PPOConfig(**changes)
    path = tmp_path_factory.getbasetemp() / "config.toml"
    config.to_toml(path)
    assert PPOConfig.from_toml(path) == config
    assert PPOConfig.from_toml(str(path)) == config
    # Whatever it is read upon.
    assert PPOConfig.from_toml(path, PPOConfig(target_kl=0.1, vf_clip_eps=0.1, checkpoint_dir="x")) == config


@pytest.mark.parametrize("none", ["none", "None", "NONE"])
def test_none_in_a_file_is_none_where_that_is_a_value(none: str, tmp_path: Path) -> None:
    base = PPOConfig(target_kl=0.1, vf_clip_eps=0.1, checkpoint_dir="x")
    path = write(tmp_path, f'target_kl = "{none}"\ncheckpoint_dir = "{none}"')
    assert PPOConfig.from_toml(path, base) == PPOConfig(vf_clip_eps=0.1)
    with pytest.raises(InvalidConfig, match=rf"^lr: expected a number, 'linear' or \(start, end\), got '{none}'"):
        PPOConfig.from_toml(write(tmp_path, f'lr = "{none}"'))
    # A folder of that name stays one.
    PPOConfig(checkpoint_dir=none).to_toml(path)
    assert PPOConfig.from_toml(path).checkpoint_dir == f"./{none}"


@pytest.mark.parametrize(("before", "line_end"), [(b"", b"\r\n"), (b"\xef\xbb\xbf", b"\n"), (b"\xef\xbb\xbf", b"\r\n")])
def test_files_of_other_systems_are_read(before: bytes, line_end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(before + line_end.join([b"lr = 0.5", b"# comment", b"seed = 3", b""]))
    assert PPOConfig.from_toml(path) == PPOConfig(lr=0.5, seed=3)


def test_memory_comes_back_from_a_file(tmp_path: Path) -> None:
    config = PPOConfig(gru_size=16, n_steps=8, batch_size=64)
    config.to_toml(tmp_path / "config.toml")
    assert PPOConfig.from_toml(tmp_path / "config.toml") == config


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    path = write(tmp_path, "lr = 1\nhidden_sizes = [32]\n# comment\nshared_trunk = true\n")
    assert PPOConfig.from_toml(path) == PPOConfig(lr=1.0, hidden_sizes=(32,), shared_trunk=True)
    base = PPOConfig.for_env("Pendulum-v1", seed=3)
    assert PPOConfig.from_toml(path, base) == replace(base, lr=1.0, hidden_sizes=(32,), shared_trunk=True)
    assert PPOConfig.from_toml(write(tmp_path, ""), base) == base


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate = 1", r"^learning_rate: unknown setting of PPO; did you mean 'lr'\? settings: num_envs, "),
        ("gama = 0.9", r"^gama: .*did you mean 'gamma'\?"),
        ("[ppo]\nlr = 0.1", r"^ppo: unknown setting"),
        ("seed = 1\nlr = = 1", r"^config: cannot read settings from '.*config.toml': .*line 2"),
        ("lr = -1.0", r"^lr: expected a number above 0, got -1.0"),
        ("lr = nan", r"^lr: expected a finite number"),
        ("hidden_sizes = [64, 'wide']", r"^hidden_sizes: expected a tuple of integers"),
        ("hidden_sizes = [[64]]", r"^hidden_sizes: expected a tuple of integers"),
        ("seed = 1.5", r"^seed: expected an integer, got 1.5"),
        ("shared_trunk = 1", r"^shared_trunk: expected True or False, got 1"),
        ("anneal_lr = true", r"^anneal_lr: it is no setting any more: lr=0.004 is constant, lr=\(0.004, 0.0\) falls"),
        ("lr = [0.1]", r"^lr: expected a number, 'linear' or \(start, end\), got \[0.1\]"),
        ("checkpoint_dir = 2026-01-01", r"^checkpoint_dir: expected text"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        PPOConfig.from_toml(write(tmp_path, text))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes("checkpoint_dir = 'Läufe'".encode("latin-1"))
    (tmp_path / "folder.toml").mkdir()
    for name in ("missing.toml", "latin.toml", "folder.toml"):
        with pytest.raises(InvalidConfig, match=rf"^config: cannot read settings from '.*{name}'"):
            PPOConfig.from_toml(tmp_path / name)


@pytest.mark.parametrize("id", SHIPPED)
def test_each_environment_of_the_library_has_a_preset(id: str) -> None:
    assert id in operant_gpu.list_envs()
    config = PPOConfig.for_env(id)
    assert asdict(config) == {**asdict(PPOConfig()), **PRESETS[id]}
    config.fitted(config.num_envs)


def test_presets_are_for_environments_of_the_library() -> None:
    assert sorted(PRESETS) == SHIPPED


@pytest.mark.parametrize("id", LARGE_PRESETS)
def test_a_large_preset_is_for_many_environments(id: str) -> None:
    config = PPOConfig.for_env(id, size="large")
    assert asdict(config) == {**asdict(PPOConfig()), **LARGE_PRESETS[id]}
    assert config.fitted(config.num_envs) == config
    assert config.batch_size >= 8192
    assert config.num_envs * config.n_steps % config.batch_size == 0
    assert PPOConfig.for_env(id, size="Large", seed=1) == replace(config, seed=1)
    # Without settings, a learner takes the usual one.
    assert PPO(operant_gpu.make(id, 4, device="cpu")).config.lr == PPOConfig.for_env(id, size="usual").lr


def test_a_large_preset_fits_fewer_environments() -> None:
    config, env = PPOConfig.for_env("CartPole-v1", size="large"), operant_gpu.make("CartPole-v1", 2, device="cpu")
    assert PPO(env, config).config == replace(config, batch_size=config.n_steps * 2)
    line = PPOConfig.for_env("CartPole-v1", size="large", lr="linear")
    assert PPO(env, line).config.lr == config.lr != PPO(env).config.lr


def test_a_size_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"^size: expected 'usual' or 'large', got 'huge'"):
        PPOConfig.for_env("CartPole-v1", size="huge")
    with pytest.raises(InvalidConfig, match=r"^size: Snake-v0 has no large preset, only the usual one; large presets"):
        PPOConfig.for_env("Snake-v0", size="large")
    with pytest.raises(InvalidConfig, match=r"^id: there is no preset for 'Doom'"):
        PPOConfig.for_env("Doom", size="large")


def test_overrides_go_over_the_preset() -> None:
    preset = PPOConfig.for_env("Pendulum-v1")
    config = PPOConfig.for_env("Pendulum-v1", gamma=0.5, seed=7)
    assert config == replace(preset, gamma=0.5, seed=7)
    assert preset.gamma != 0.5
    with pytest.raises(InvalidConfig, match=r"^gama: .*'gamma'"):
        PPOConfig.for_env("Pendulum-v1", gama=0.5)
    with pytest.raises(InvalidConfig, match=r"^gamma: expected"):
        PPOConfig.for_env("Pendulum-v1", gamma=2.0)


def test_an_environment_without_preset_is_refused_with_a_hint() -> None:
    with pytest.raises(InvalidConfig, match=r"^id: .*'CartPole-v2'; did you mean 'CartPole-v1'\?.*Pendulum-v1"):
        PPOConfig.for_env("CartPole-v2")
    with pytest.raises(InvalidConfig, match=r"^id: there is no preset for 'Doom'; presets: "):
        PPOConfig.for_env("Doom")
