"""The learner as its users meet it: metrics, callbacks, repeatability, acting, refusals."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from learning_envs import Forbidden, Locate, Recall
from torch._dynamo.exc import TorchDynamoException
from torch.utils._python_dispatch import TorchDispatchMode

import operant_gpu
from operant_gpu import BackendError, CheckpointError, InvalidConfig, TrainingError
from operant_gpu.archives import archived
from operant_gpu.backends import select
from operant_gpu.errors import Lack
from operant_gpu.models import PPO, RND, IntrinsicReward, PPOConfig

TIMES = {"seconds", "sps", "env_sps", "learner_sps"}
NAMES = {"timesteps", "iterations", "lr", "episodes", "episodic_return", "episodic_length", "policy_loss", "value_loss"}
NAMES |= {*TIMES, "entropy", "approx_kl", "clip_frac", "grad_norm", "explained_variance", "slow_paths"}


def small(**changes: object) -> PPOConfig:
    return PPOConfig(**{"n_steps": 8, "batch_size": 32, "n_epochs": 2, "hidden_sizes": (16,), **changes})


def cartpole(num_envs: int = 16, **settings: object):
    return operant_gpu.make("CartPole-v1", num_envs, device="cpu", **settings)


VARIANTS = {
    "plain": {},
    "normalized": {"normalize_observations": True, "normalize_rewards": True},
    "recurrent": {"gru_size": 8},
    "curious": {"rnd_coef": 0.5},
    "half": {"use_amp": True},
    "early": {"target_kl": 0.001},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_gives_the_same_run(variant: str) -> None:
    def run(seed: int) -> tuple[str, torch.Tensor]:
        # What other code draws makes no difference.
        torch.manual_seed(np.random.default_rng().integers(2**31))
        history: list[dict[str, float]] = []
        learner = PPO(cartpole(), small(seed=seed, **VARIANTS[variant]))
        learner.learn(640, lambda metrics: history.append({k: v for k, v in metrics.items() if k not in TIMES}))
        # As text, since NaN, before the first episode ends, is not equal to itself.
        return str(history), torch.nn.utils.parameters_to_vector(learner.policy.parameters())

    (history, weights), (again, weights_again), (_, others) = run(3), run(3), run(4)
    assert history == again
    assert torch.equal(weights, weights_again)
    assert not torch.equal(weights, others)


@pytest.fixture
def other_defaults():
    """What PyTorch makes unless told otherwise: float64, in no memory at all."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("engine", ["auto", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_pytorchs_defaults_make_no_difference(id: str, variant: str, engine: str, request) -> None:
    def run() -> torch.Tensor:
        learner = PPO(operant_gpu.make(id, 16, device="cpu"), small(engine=engine, **VARIANTS[variant])).learn(640)
        obs = torch.zeros(2, *learner.env.single_observation_space.shape, dtype=torch.float32, device="cpu")
        learner.controller()(obs)
        return torch.nn.utils.parameters_to_vector(learner.policy.parameters())

    expected = run()
    request.getfixturevalue("other_defaults")
    weights = run()
    assert weights.dtype is torch.float32
    assert torch.equal(weights, expected)


def test_callback_gets_metrics_and_stops() -> None:
    calls: list[dict[str, float]] = []

    def stop_at_second(metrics: dict[str, float]) -> bool:
        calls.append(metrics)
        return len(calls) < 2

    learner = PPO(cartpole(), small()).learn(10_000, stop_at_second)
    assert [call["timesteps"] for call in calls] == [128, 256]
    assert learner.timesteps == 256
    assert set(calls[0]) == NAMES
    assert all(
        math.isfinite(value) for name, value in calls[0].items() if name not in ("episodic_return", "episodic_length")
    )


def test_metrics_come_at_the_logging_interval_and_at_the_end_and_miss_nothing() -> None:
    seldom: list[dict[str, float]] = []
    PPO(cartpole(), small(log_interval=4)).learn(1280, seldom.append)
    often: list[dict[str, float]] = []
    PPO(cartpole(), small()).learn(1280, often.append)
    assert [call["iterations"] for call in seldom] == [4, 8, 10]
    assert seldom[-1]["episodes"] == often[-1]["episodes"] > 30
    for name in ("policy_loss", "value_loss", "explained_variance", "grad_norm"):
        assert seldom[0][name] == pytest.approx(np.mean([call[name] for call in often[:4]]), rel=1e-5)


def test_metrics_count_the_episodes_that_the_environment_counts() -> None:
    env = cartpole()
    last: dict[str, float] = {}
    # All in one reading, so that the mean is over all episodes.
    PPO(env, small(log_interval=1_000)).learn(2_560, last.update)
    logs = env.get_logs()
    assert last["episodes"] == logs["episode_count"] > 50
    assert last["episodic_return"] == pytest.approx(logs["mean_reward"])
    assert last["episodic_length"] == pytest.approx(logs["mean_length"])


def test_the_mean_return_is_of_the_latest_hundred_episodes_or_somewhat_more() -> None:
    env = operant_gpu.make("CartPole-v1", 100, device="cpu", max_episode_steps=3)
    history: list[dict[str, float]] = []
    # Every third step all episodes end; none ends in the steps between.
    PPO(env, small(n_steps=1, batch_size=100)).learn(1_200, lambda metrics: history.append(metrics))
    assert [metrics["episodes"] for metrics in history[:7]] == [0, 0, 100, 100, 100, 200, 200]
    assert math.isnan(history[1]["episodic_return"])
    assert {metrics["episodic_length"] for metrics in history[2:]} == {3.0}


def test_the_learning_rate_falls_to_zero_over_the_training() -> None:
    rates: list[float] = []
    PPO(cartpole(), small(lr=(1e-3, 0.0))).learn(512, lambda metrics: rates.append(metrics["lr"]))
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    rates.clear()
    PPO(cartpole(), small(lr=1e-3)).learn(256, lambda metrics: rates.append(metrics["lr"]))
    assert rates == [1e-3, 1e-3]


def test_total_timesteps_come_from_the_settings_if_not_given() -> None:
    assert PPO(cartpole(), small(total_timesteps=300)).learn().timesteps == 384


def test_without_settings_the_preset_of_the_environment_is_taken() -> None:
    preset = PPOConfig.for_env("Pendulum-v1", batch_size=512)
    assert PPO(operant_gpu.make("Pendulum-v1", 4, device="cpu")).config == preset
    assert PPO(Recall(16, device="cpu")).config == PPOConfig(batch_size=512)


class HostReads(TorchDispatchMode):
    """Collects the operations that bring a number, or a size that depends on numbers, to the host."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in self.WAITING):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "early"])
@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1", "Forbidden", "Locate"])
def test_nothing_is_read_on_the_host_within_an_iteration(environment: str, variant: str) -> None:
    """On a GPU each such reading would wait for the device."""
    own = {"Forbidden": Forbidden, "Locate": Locate}
    env = own[environment](16, device="cpu") if environment in own else operant_gpu.make(environment, 16, device="cpu")
    learner = PPO(env, small(engine="eager", cnn_channels=(4,), **VARIANTS[variant])).learn(128)
    with HostReads() as reads:
        learner._iterate()
    assert reads.found == []
    with reads:
        learner._loop.read(learner.iterations, is_due=True)
    # What was measured, whether the policy is finite, the learning rate, and the environments' faults.
    assert len(reads.found) <= 4


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_save_and_load_give_the_same_policy(id: str, variant: str, tmp_path) -> None:
    env = operant_gpu.make(id, 8, device="cpu")
    learner = PPO(env, small(**VARIANTS[variant])).learn(640)
    learner.save(tmp_path / "deep" / "policy.pt")
    loaded = PPO.load(tmp_path / "deep" / "policy.pt")
    obs, _ = env.reset(seed=5)
    torch.testing.assert_close(loaded.controller()(obs), learner.controller()(obs), rtol=0, atol=0)
    assert loaded.config == learner.config
    assert (loaded.timesteps, loaded.iterations) == (learner.timesteps, learner.iterations) == (640, 10)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["policy.pt"]
    for part in ("optimizer", "policy", "reward_normalizer", "intrinsic"):
        one, other = getattr(loaded, part), getattr(learner, part)
        assert (one is None) is (other is None)
        if one is not None:
            torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_loading_what_is_not_a_checkpoint_is_refused(tmp_path) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"format": 99}, tmp_path / "foreign.pt")
    PPO(cartpole(8), small()).save(tmp_path / "cartpole.pt")
    with pytest.raises(InvalidConfig, match=r"there is no file .*missing\.pt"):
        PPO.load(tmp_path / "missing.pt")
    for path in ("text.pt", "foreign.pt"):
        with pytest.raises(CheckpointError, match=path):
            PPO.load(tmp_path / path)
    with pytest.raises(InvalidConfig, match="does not fit"):
        PPO.load(tmp_path / "cartpole.pt", operant_gpu.make("Pendulum-v1", 8, device="cpu"))


class Linear(torch.nn.Module):
    """A network of the caller's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.layer(obs)
        return out[:, :2], out[:, 2]


def test_a_network_of_the_callers_own_learns_and_is_loaded(tmp_path) -> None:
    network = Linear()
    before = network.layer.weight.detach().clone()
    learner = PPO(cartpole(), small(), network=network).learn(640)
    assert not torch.equal(network.layer.weight, before)
    learner.save(tmp_path / "own.pt")
    with pytest.raises(InvalidConfig, match="holds a Linear"):
        PPO.load(tmp_path / "own.pt")
    loaded = PPO.load(tmp_path / "own.pt", network=Linear())
    assert torch.equal(loaded.policy.network.layer.weight, network.layer.weight)


class Constant(IntrinsicReward):
    def forward(self, rollout, generator):
        return torch.full_like(rollout.reward, 2.0)


def test_an_intrinsic_reward_of_the_callers_own_is_added() -> None:
    learner = PPO(cartpole(), small(), intrinsic=Constant())
    learner._begin()
    learner._loop.stages[0]()
    rollout = learner._loop.rollout
    with_bonus = learner._loop.update.advantages(rollout)
    rollout.reward += 2.0
    learner._loop.update._intrinsic = None
    torch.testing.assert_close(with_bonus, learner._loop.update.advantages(rollout))


def test_checkpoints_are_written_and_the_oldest_removed(tmp_path) -> None:
    config = small(checkpoint_dir=tmp_path / "run", checkpoint_interval=2, checkpoint_keep=2)
    learner = PPO(cartpole(), config).learn(128 * 7)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["step-000000000768.pt", "step-000000000896.pt"]
    assert PPO.load(tmp_path / "run" / names[1]).timesteps == learner.timesteps == 896
    assert PPO.load(tmp_path / "run" / names[0]).iterations == 6


def test_a_folder_with_checkpoints_of_another_training_is_refused(tmp_path) -> None:
    config = small(checkpoint_dir=tmp_path, checkpoint_interval=1, checkpoint_keep=2)
    PPO(cartpole(), config).learn(128 * 5)
    with pytest.raises(InvalidConfig, match="has checkpoints of another training"):
        PPO(cartpole(), config).learn(128)
    assert PPO.load(tmp_path).timesteps == 640


def test_checkpoints_of_a_future_that_is_given_up_are_put_aside(tmp_path) -> None:
    PPO(cartpole(), small(checkpoint_dir=tmp_path, checkpoint_interval=1, checkpoint_keep=9)).learn(128 * 5)
    PPO.load(tmp_path / "step-000000000256.pt").resume(callback=lambda metrics: False)
    assert PPO.load(tmp_path).timesteps == 384
    given_up = sorted(path.name for path in tmp_path.glob("*.abandoned*"))
    assert given_up == [f"step-{steps:012d}.pt.abandoned-1" for steps in (384, 512, 640)]
    # Once more: those of before stay.
    PPO.load(tmp_path / "step-000000000256.pt").resume(callback=lambda metrics: False)
    assert len(list(tmp_path.glob("step-000000000384.pt.abandoned-*"))) == 2


def test_a_folder_that_was_refused_is_not_written_to(tmp_path) -> None:
    config = small(checkpoint_dir=tmp_path, checkpoint_interval=1, checkpoint_keep=2)
    PPO(cartpole(), config).learn(128 * 5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = PPO(cartpole(), config)
    for _ in range(2):
        with pytest.raises(InvalidConfig, match="has checkpoints of another training"):
            other.learn(128)
    with pytest.raises(InvalidConfig, match="has checkpoints of another training"):
        PPO(cartpole(), small()).keep_checkpoints(tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_sizes": (8,)},
        {"activation": "relu"},
        {"shared_trunk": True},
        {"normalize_observations": True},
        {"normalize_rewards": True},
        {"rnd_coef": 1.0},
    ],
)
def test_settings_that_a_trained_policy_is_made_of_cannot_change(changes, tmp_path) -> None:
    PPO(cartpole(), small()).learn(128).save(tmp_path / "policy.pt")
    (name,) = changes
    with pytest.raises(InvalidConfig, match=f"{name}: .* was trained with .*: leave it as it was"):
        PPO.load(tmp_path / "policy.pt", config=small(**changes))


def test_one_training_at_a_time() -> None:
    learner = PPO(cartpole(), small())
    with pytest.raises(TrainingError, match="this learner is training already"):
        learner.learn(256, lambda metrics: learner.learn(128))
    assert learner.learn(128).timesteps == 256


def test_folders_that_cannot_be_written_are_refused_before_training(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfig, match="checkpoint_dir: cannot write"):
        PPO(cartpole(), small(checkpoint_dir=tmp_path / "file")).learn(128)
    with pytest.raises(InvalidConfig, match="path: expected a file"):
        PPO(cartpole(), small()).save(tmp_path)


def test_after_a_fault_no_checkpoint_is_written(tmp_path) -> None:
    env = cartpole()
    learner = PPO(env, small(checkpoint_dir=tmp_path, checkpoint_interval=1, log_interval=100)).learn(128)
    env.state.theta[5] = math.nan
    with pytest.raises(TrainingError):
        learner.learn(1280)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000000000.pt", "step-000000000128.pt"]


def test_training_goes_on_after_a_fault_was_mended() -> None:
    env = operant_gpu.make("Pendulum-v1", 16, device="cpu", max_episode_steps=10)
    learner = PPO(env, small(normalize_observations=True, normalize_rewards=True, log_interval=4)).learn(512)
    before = {name: value.clone() for name, value in learner.policy.state_dict().items()}
    env.state.theta[5] = math.nan
    with pytest.raises(TrainingError, match="look at what the environment gives"):
        learner.learn(512)
    for name, value in learner.policy.state_dict().items():
        assert torch.equal(value, before[name]), name
    env.reset(seed=0)
    last: dict[str, float] = {}
    learner.learn(512, last.update)
    assert all(map(math.isfinite, last.values()))


def test_a_policy_that_is_not_finite_after_its_last_step_is_reported() -> None:
    with pytest.raises(TrainingError, match="the policy is not finite after iteration 1"):
        PPO(cartpole(), small(lr=1e38, batch_size=128, n_epochs=1)).learn(128)


def test_loading_without_the_intrinsic_reward_is_refused(tmp_path) -> None:
    PPO(cartpole(), small(), intrinsic=Constant()).save(tmp_path / "own.pt")
    with pytest.raises(InvalidConfig, match="intrinsic"):
        PPO.load(tmp_path / "own.pt")


def test_other_settings_can_be_given_when_loading(tmp_path) -> None:
    env = cartpole(max_episode_steps=33)
    PPO(env, small()).learn(128).save(tmp_path / "policy.pt")
    again = PPO.load(tmp_path / "policy.pt").learn(128)
    assert (again.env.max_episode_steps, again.env.num_envs, again.timesteps) == (33, 16, 256)
    loaded = PPO.load(tmp_path / "policy.pt", env, config=small(lr=1e-5)).learn(128)
    assert (loaded.config.lr, loaded.timesteps) == (1e-5, 256)


def test_a_file_that_lacks_a_part_is_refused(tmp_path) -> None:
    PPO(cartpole(), small()).save(tmp_path / "policy.pt")
    saved = torch.load(tmp_path / "policy.pt", weights_only=True)
    del saved["optimizer"]
    (tmp_path / "policy.pt").write_bytes(archived(saved))
    with pytest.raises(CheckpointError, match="it lacks optimizer"):
        PPO.load(tmp_path / "policy.pt")


def test_callbacks_may_return_numpys_false_and_must_be_functions() -> None:
    assert PPO(cartpole(), small()).learn(1280, lambda metrics: np.bool_(False)).timesteps == 128
    with pytest.raises(InvalidConfig, match="callback"):
        PPO(cartpole(), small()).learn(128, 3)


def test_parameters_frozen_later_stay_as_they_are() -> None:
    learner = PPO(cartpole(), small()).learn(256)
    frozen = learner.policy.network.trunks[0][1].weight.requires_grad_(False)
    before = frozen.clone()
    learner.learn(256)
    assert torch.equal(frozen, before)


ENGINES = {"fused": {}, "eager": {"engine": "eager"}, "gru": {"gru_size": 4}}


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_that_the_policy_was_given_since_are_learned(engine: str) -> None:
    learner = PPO(cartpole(), small(**ENGINES[engine])).learn(256)
    given = torch.nn.Parameter(torch.full_like(learner.policy.network.actor.weight, 0.3))
    learner.policy.network.actor.weight = given
    learner.learn(256)
    assert learner.policy.network.actor.weight is given
    assert not torch.equal(given, torch.full_like(given, 0.3))
    # The moments are those of the same place.
    assert learner.optimizer.count == 2 * 2 * 4 * 2


@pytest.mark.parametrize("engine", ENGINES)
def test_another_policy_in_its_place_is_learned(engine: str) -> None:
    learner = PPO(cartpole(), small(**ENGINES[engine])).learn(256)
    learner.policy = PPO(cartpole(), small(**ENGINES[engine], seed=5)).policy
    before = torch.nn.utils.parameters_to_vector(learner.policy.parameters()).clone()
    learner.learn(256)
    assert not torch.equal(torch.nn.utils.parameters_to_vector(learner.policy.parameters()), before)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda policy: setattr(policy.network, "actor", torch.nn.Linear(9, 2)),
            r"actor.weight to be .*\(2, 9\)",
        ),
        (lambda policy: policy.network.register_parameter("more", torch.nn.Parameter(torch.zeros(1))), "parameters"),
        (lambda policy: policy.double(), "to be .*float32.*got .*float64"),
    ],
    ids=["shape", "number", "dtype"],
)
def test_weights_of_another_form_are_refused(engine: str, change, message: str) -> None:
    learner = PPO(cartpole(), small(**ENGINES[engine])).learn(256)
    change(learner.policy)
    with pytest.raises(InvalidConfig, match=f"^policy: expected .*{message}.*make a new learner$"):
        learner.learn(256)


class Wrong(IntrinsicReward):
    def forward(self, rollout, generator):
        return rollout.reward[0]


def test_an_intrinsic_reward_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"intrinsic: expected bonuses of shape \(8, 16\), got \(16,\)"):
        PPO(cartpole(), small(), intrinsic=Wrong()).learn(128)


def test_networks_in_another_precision_are_refused() -> None:
    class Double(Linear):
        def forward(self, obs):
            return tuple(part.float() for part in super().forward(obs.double()))

    with pytest.raises(InvalidConfig, match="parameters must be float32"):
        PPO(cartpole(), small(), network=Double().double())


def test_predict_takes_one_observation_or_many_and_stays_in_the_space() -> None:
    env = operant_gpu.make("Pendulum-v1", 8, device="cpu")
    learner = PPO(env, small())
    learner.policy.network.actor.bias.data[:] = 50.0
    one, many = learner.predict(np.zeros(3)), learner.predict(torch.zeros(7, 3), deterministic=False)
    assert one.shape == (1,)
    assert many.shape == (7, 1)
    assert one.item() == 2.0
    for wrong in (np.zeros((2, 4)), None, "three", (torch.zeros(3), {}), [["a", "b", "c"]], np.array([None] * 3)):
        with pytest.raises(InvalidConfig, match="obs: expected"):
            learner.predict(wrong)
    for wrong in (None, "no", 1, np.zeros(2)):
        with pytest.raises(InvalidConfig, match="deterministic: expected True or False"):
            learner.predict(np.zeros(3), wrong)


def test_predict_reads_any_byte_order_stride_and_container() -> None:
    learner = PPO(operant_gpu.make("Pendulum-v1", 8, device="cpu"), small())
    plain = np.linspace(-1.0, 1.0, 15, dtype=np.float32).reshape(5, 3)
    expected = learner.predict(torch.from_numpy(plain))
    read_only = plain.copy()
    read_only.flags.writeable = False
    table = np.zeros(5, [("time", "u1"), ("obs", "f4", 3)])
    table["obs"] = plain
    forms = [
        table["obs"],
        *(plain.astype(dtype) for dtype in (">f4", "<f4", ">f8", "f8")),
        *(plain[::-1].copy()[::-1], plain[:, ::-1].copy()[:, ::-1], np.asfortranarray(plain), read_only),
        *([torch.from_numpy(row) for row in plain], list(plain), plain.tolist(), list(map(list, plain))),
        torch.from_numpy(plain).double().requires_grad_(),
    ]
    for form in forms:
        assert torch.equal(learner.predict(form), expected)
    assert torch.equal(learner.predict(plain[0].astype(">f4")), expected[0])
    assert torch.equal(learner.predict([torch.tensor(x) for x in plain[0]]), expected[0])
    controller = PPO(operant_gpu.make("Pendulum-v1", 8, device="cpu"), small(gru_size=4)).controller()
    first = controller(forms[0])
    assert torch.equal(controller(forms[0], ended=[torch.tensor(True)] * 5), first)


def test_predict_keeps_to_the_mask() -> None:
    learner = PPO(Forbidden(4, device="cpu"), small())
    mask = torch.tensor([[True, False, False, False, False], [False, False, False, False, True]])
    for deterministic in (True, False):
        assert learner.predict(torch.zeros(2, 1), deterministic, mask).tolist() == [0, 4]
    assert learner.predict(torch.zeros(1), action_mask=mask[1]).item() == 4
    for wrong in (mask[:, :2], mask[:1], mask[[0, 1, 1]]):
        with pytest.raises(InvalidConfig, match="action_mask"):
            learner.predict(torch.zeros(2, 1), action_mask=wrong)


def test_a_controller_remembers_within_an_episode_alone() -> None:
    learner = PPO(Recall(4, device="cpu"), small(gru_size=8))
    with pytest.raises(InvalidConfig, match="controller"):
        learner.predict(torch.zeros(2, 2))
    controller = learner.controller()
    cue, nothing = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)

    def memory_after(*steps: tuple[torch.Tensor, list[bool] | None]) -> torch.Tensor:
        controller = learner.controller()
        for obs, ended in steps:
            controller(obs, ended)
        return controller._state

    assert not torch.equal(memory_after((cue, None), (nothing, None)), memory_after((nothing, None), (nothing, None)))
    torch.testing.assert_close(memory_after((cue, None), (nothing, [True])), memory_after((nothing, None)))
    assert controller(torch.zeros(3, 2)).shape == (3,)


def test_numbers_that_are_not_finite_stop_the_training_with_their_place() -> None:
    env = cartpole()
    learner = PPO(env, small(log_interval=3))
    learner.learn(128)
    before = torch.nn.utils.parameters_to_vector(learner.policy.parameters()).detach().clone()
    env.state.theta[5] = math.nan
    with pytest.raises(TrainingError, match="observations of environment 5 at step 0 of iteration 2"):
        learner.learn(512)
    assert torch.equal(torch.nn.utils.parameters_to_vector(learner.policy.parameters()), before)


def test_gradients_that_are_not_finite_name_their_parameter() -> None:
    learner = PPO(cartpole(), small(max_grad_norm=1.0, engine="eager"))
    learner.policy.network.critic.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match=r"gradient of network\.critic\.weight in gradient step 1 of iteration 1"):
        learner.learn(128)


def test_environments_and_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="SAME_STEP"):
        PPO(cartpole(2, autoreset_mode=AutoresetMode.NEXT_STEP))
    with pytest.raises(InvalidConfig, match="output='torch'"):
        PPO(cartpole(2, output="numpy"))
    with pytest.raises(InvalidConfig, match="VecEnv"):
        PPO("CartPole-v1")
    with pytest.raises(InvalidConfig, match="config"):
        PPO(cartpole(2), {"lr": 1e-3})
    with pytest.raises(InvalidConfig, match="engine"):
        PPO(cartpole(2), small(engine="graph"))
    with pytest.raises(InvalidConfig, match="rnd_coef"):
        PPO(cartpole(4), small(rnd_coef=1.0), intrinsic=RND((4,), 4))
    with pytest.raises(InvalidConfig, match="intrinsic"):
        PPO(cartpole(4), small(), intrinsic=lambda rollout, generator: 0)
    with pytest.raises(InvalidConfig, match=r"batch_size: 32 is more than the 8 x 2 = 16 steps"):
        PPO(cartpole(2), small())
    for total in (0, -5, 1.5, True):
        with pytest.raises(InvalidConfig, match="total_timesteps"):
            PPO(cartpole()).learn(total)


def test_a_compilation_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(batch):
        raise TorchDynamoException("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", lambda function: failing)
    with pytest.raises(BackendError, match=r"No working C\+\+ compiler found; mend that, or set compile=False"):
        PPO(cartpole(), small(compile=True)).learn(128)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_losses_learn_alike() -> None:
    compiled, plain = (PPO(cartpole(), small(compile=choice, engine="eager")).learn(256) for choice in (True, False))
    for one, other in zip(compiled.policy.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_images_too_small_for_the_convolutions_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="cnn_channels"):
        PPO(Locate(4, device="cpu"), small(cnn_channels=(4, 4, 4)))


def test_learning_goes_on_from_the_state_that_the_environments_are_in() -> None:
    env = cartpole()
    learner = PPO(env, small()).learn(128)
    env.reset(seed=99)
    expected = env.observe().clone()
    learner.learn(128)
    assert torch.equal(learner._loop.rollout.obs[0], expected)


def test_what_is_slower_than_it_could_be_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    env = operant_gpu.make("Snake-v0", 4, device="cpu")
    metrics: list[dict[str, float]] = []
    with caplog.at_level("INFO", "operant_gpu"):
        learner = PPO(env, small(cnn_channels=(4,))).learn(64, metrics.append)
    backend, network = learner.slow_paths
    assert backend == "the numpy backend steps the environments, and not numba: it runs no environments with arrays"
    assert network.startswith("PyTorch trains the network, and not the fused kernels: cnn_channels: ")
    # Neither can be mended by an installation: they are said to those who ask.
    assert [line for line in caplog.messages if "compiled" not in line] == []
    assert {each["slow_paths"] for each in metrics} == {2}
    caplog.clear()
    with caplog.at_level("DEBUG", "operant_gpu"):
        PPO(operant_gpu.make("Snake-v0", 4, device="cpu"), small(cnn_channels=(4,))).learn(64)
    assert [line for line in caplog.messages if "compiled" not in line] == [backend, network]


def test_a_gpu_that_lacks_a_package_is_a_loss_unless_the_cpu_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    missing = select._missing
    monkeypatch.setattr(select, "_missing", lambda name: Lack("it lacks Triton") if name == "triton" else missing(name))
    lost, none = (operant_gpu.make("CartPole-v1", 2, device=device).slow_path for device in ("auto", "cpu"))
    assert lost == "the numba backend steps the environments, and not triton: it lacks Triton"
    assert isinstance(lost, Lack)
    assert none is None


def test_what_was_asked_for_is_no_loss() -> None:
    env = operant_gpu.make("CartPole-v1", 4, device="cpu", backend="numpy")
    assert PPO(env, small(engine="eager")).slow_paths == []
