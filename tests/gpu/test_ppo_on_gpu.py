"""PPO on a GPU: graphs replay what the eager loop does, nothing waits within an iteration, and it learns."""

from __future__ import annotations

import math

import pytest
import torch
from gpu_checks import no_synchronisation
from learning_envs import Forbidden, Locate, Recall
from torch import Tensor, nn

import operant_gpu
from operant_gpu import BackendError, TrainingError
from operant_gpu.models import PPO, RND, IntrinsicReward, PPOConfig
from operant_gpu.models.rollout import Rollout
from operant_gpu.vector import VecEnv

pytestmark = pytest.mark.gpu

VARIANTS = {
    "plain": {},
    "normalized": {"normalize_observations": True, "normalize_rewards": True},
    "recurrent": {"gru_size": 8},
    "curious": {"rnd_coef": 0.5},
    "half": {"use_amp": True},
    "early": {"target_kl": 0.001},
    "early, recurrent": {"target_kl": 0.001, "gru_size": 8},
    "shared": {"shared_trunk": True, "vf_clip_eps": 0.2, "ent_coef": 0.01},
}
ENVIRONMENTS = {
    "CartPole": lambda: operant_gpu.make("CartPole-v1", 64, device="cuda"),
    "Pendulum": lambda: operant_gpu.make("Pendulum-v1", 64, device="cuda"),
    "masks": lambda: Forbidden(64, device="cuda"),
    "images": lambda: Locate(64, device="cuda"),
    "memory": lambda: Recall(64, device="cuda"),
}


def small(**changes: object) -> PPOConfig:
    return PPOConfig(
        **{"n_steps": 8, "batch_size": 128, "n_epochs": 2, "hidden_sizes": (32,), "cnn_channels": (4,), **changes}
    )


def run(env: VecEnv, config: PPOConfig, network: nn.Module | None = None) -> tuple[PPO, list[dict[str, float]]]:
    history: list[dict[str, float]] = []
    learner = PPO(env, config, network=network).learn(512 * 6, lambda metrics: history.append(metrics))
    return learner, history


def assert_same_run(one: PPO, other: PPO) -> None:
    for (name, parameter), expected in zip(
        one.policy.state_dict().items(), other.policy.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            parameter, expected, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("environment", "variant"),
    [(name, "plain") for name in ENVIRONMENTS] + [("CartPole", variant) for variant in VARIANTS if variant != "plain"],
)
def test_graphs_learn_what_the_eager_loop_learns(environment: str, variant: str) -> None:
    make, changes = ENVIRONMENTS[environment], VARIANTS[variant]
    graph, graph_history = run(make(), small(engine="graph", **changes))
    eager, eager_history = run(make(), small(engine="eager", **changes))
    assert (graph.engine, eager.engine) == ("graph", "eager")
    assert_same_run(graph, eager)
    for one, other in zip(graph_history, eager_history, strict=True):
        for name in ("episodes", "episodic_return", "policy_loss", "entropy", "grad_norm", "lr"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4, nan_ok=True), name


@pytest.mark.parametrize("engine", ["graph", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_waits_for_the_device_within_an_iteration(engine: str, variant: str) -> None:
    learner, _ = run(ENVIRONMENTS["CartPole"](), small(engine=engine, log_interval=1_000, **VARIANTS[variant]))
    with no_synchronisation():
        for _ in range(3):
            learner._iterate()


class Waiting(nn.Module):
    """A network that reads a number on the host, which no graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        out = self.layer(obs * (1.0 if obs.sum().item() < math.inf else 0.0))
        return out[:, :2], out[:, 2]


def test_what_cannot_be_captured_runs_eagerly_and_says_why() -> None:
    torch.manual_seed(0)
    network = Waiting()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.warns(RuntimeWarning, match="no CUDA graph, training goes on eagerly"):
        fallen_back, _ = run(ENVIRONMENTS["CartPole"](), small(), network)
    assert fallen_back.engine == "eager"
    again = Waiting()
    again.load_state_dict(state)
    eager, _ = run(ENVIRONMENTS["CartPole"](), small(engine="eager"), again)
    assert_same_run(fallen_back, eager)


class WaitingBonus(IntrinsicReward):
    """A bonus that reads a number on the host: the rollout can be captured, the update cannot."""

    def forward(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        return torch.full_like(rollout.rewards, 0.1 if rollout.rewards.sum().item() < math.inf else 0.0)


def test_an_update_that_cannot_be_captured_leaves_streams_and_draws_as_they_are() -> None:
    before = torch.cuda.current_stream()
    learners = []
    for engine in ("auto", "eager"):
        learner = PPO(ENVIRONMENTS["CartPole"](), small(engine=engine), intrinsic=WaitingBonus())
        if engine == "auto":
            with pytest.warns(RuntimeWarning, match="no CUDA graph, training goes on eagerly"):
                learner.learn(512 * 6)
        else:
            learner.learn(512 * 6)
        learners.append(learner)
    assert torch.cuda.current_stream() == before
    assert learners[0].engine == "eager"
    assert_same_run(*learners)


def test_graphs_that_were_asked_for_and_cannot_be_had_are_an_error() -> None:
    with pytest.raises(BackendError, match="an iteration cannot be captured"):
        run(ENVIRONMENTS["CartPole"](), small(engine="graph"), Waiting())


def test_curiosity_made_on_a_cpu_moves_to_the_gpu() -> None:
    env = ENVIRONMENTS["CartPole"]()
    learner = PPO(env, small(), intrinsic=RND((4,), env.num_envs)).learn(512 * 4)
    assert learner.engine == "graph"


def test_the_same_seed_gives_the_same_graph_run() -> None:
    (one, _), (other, _) = (run(ENVIRONMENTS["CartPole"](), small()) for _ in range(2))
    assert_same_run(one, other)


def test_faults_are_found_in_graphs() -> None:
    env = ENVIRONMENTS["CartPole"]()
    learner, _ = run(env, small(log_interval=3))
    env.state.theta[5] = math.nan
    with pytest.raises(TrainingError, match="observations of environment 5 at step 0 of iteration 7"):
        learner.learn(512 * 6)
    assert all(parameter.isfinite().all() for parameter in learner.policy.parameters())


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_environments_are_solved(id: str) -> None:
    goal = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0}[id]
    config = PPOConfig.for_env(id)
    best = [-math.inf]

    def until_solved(metrics: dict[str, float]) -> bool:
        if metrics["episodes"] >= 100:
            best[0] = max(best[0], metrics["episodic_return"])
        return best[0] < goal

    learner = PPO(operant_gpu.make(id, config.num_envs, device="cuda"), config).learn(callback=until_solved)
    assert best[0] >= goal
    assert learner.engine == "graph"


def test_a_policy_from_the_gpu_acts_on_a_cpu(tmp_path) -> None:
    learner, _ = run(ENVIRONMENTS["CartPole"](), small(normalize_observations=True))
    learner.save(tmp_path / "policy.pt")
    loaded = PPO.load(tmp_path / "policy.pt", operant_gpu.make("CartPole-v1", 4, device="cpu"))
    obs = torch.randn(16, 4)
    assert torch.equal(loaded.predict(obs), learner.predict(obs).cpu())


def test_compiled_losses_learn_alike() -> None:
    compiled, _ = run(ENVIRONMENTS["CartPole"](), small(compile=True))
    plain, _ = run(ENVIRONMENTS["CartPole"](), small())
    for one, other in zip(compiled.policy.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
