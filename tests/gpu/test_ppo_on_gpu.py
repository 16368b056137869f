"""PPO on a GPU: graphs replay what the eager loop does, nothing waits within an iteration, and it learns.

With engine="auto" an `MLPPolicy` is trained by fused kernels: tests name the engine that they are of.
"""

from __future__ import annotations

import math

import pytest
import torch
from contract_envs import assert_same_tensors
from gpu_checks import needs, no_synchronisation
from learning_envs import Forbidden, Locate, Recall
from resumed import LINES
from torch import Tensor, nn

import operant_gpu
from operant_gpu import BackendError, TrainingError
from operant_gpu.models import PPO, RND, IntrinsicReward, PPOConfig
from operant_gpu.models.ppo import loop
from operant_gpu.models.ppo.graphs import Stage
from operant_gpu.models.ppo.rollout import Rollout
from operant_gpu.vector import VecEnv

pytestmark = pytest.mark.gpu

graph_engine = needs("graphs of PyTorch")
fused_and_graph = pytest.mark.parametrize("engine", ["fused", pytest.param("graph", marks=graph_engine)])
# Too wide for fused kernels.
NOT_FUSED = {"hidden_sizes": (100,)}
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
FUSED_VARIANTS = ("plain", "normalized", "curious", "early", "shared")
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


def assert_same_run(found: PPO, expected: PPO) -> None:
    assert_same_tensors(found.policy.state_dict(), expected.policy.state_dict(), ulps=10_000, atol=1e-4)


@graph_engine
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
            expected = pytest.approx(other[name], rel=1e-3, abs=1e-4, nan_ok=True)
            assert one[name] == expected, f"{name} in iteration {one['iterations']}"


@graph_engine
@pytest.mark.parametrize("engine", ["fused", "graph"])
def test_what_callbacks_write_is_read_by_graphs_that_are_there(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines, and numbers written half way: as without graphs, and nothing is captured twice."""

    def trained() -> tuple[PPO, list[list[object]]]:
        learner, graphs = PPO(ENVIRONMENTS["CartPole"](), small(engine=engine, **LINES)), list[list[object]]()

        def write(metrics: dict[str, float]) -> None:
            graphs.append([stage._graph for stage in learner._loop.stages])
            if metrics["iterations"] == 4:
                for name, (first, last) in LINES.items():
                    setattr(learner.hyperparameters, name, (last, first) if name == "gamma" else first)
                learner.hyperparameters.target_kl = learner.hyperparameters.vf_clip_eps = None

        return learner.learn(512 * 8, write), graphs

    captured, graphs = trained()
    assert captured.engine == engine
    assert all(graph is not None for graph in graphs[2])
    assert all(one is other for later in graphs[3:] for one, other in zip(graphs[2], later, strict=True))
    monkeypatch.setattr(loop, "Stage", lambda function, generator, capture: Stage(function, generator, capture=False))
    launched, _ = trained()
    assert_same_run(captured, launched)


@needs("waiting")
@pytest.mark.parametrize(
    ("engine", "variant"),
    [
        *(("fused", variant) for variant in FUSED_VARIANTS),
        *((engine, variant) for engine in ("graph", "eager") for variant in VARIANTS),
    ],
)
def test_nothing_waits_for_the_device_within_an_iteration(engine: str, variant: str) -> None:
    learner, _ = run(ENVIRONMENTS["CartPole"](), small(engine=engine, log_interval=1_000, **VARIANTS[variant]))
    assert learner.engine == engine
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


@graph_engine
@pytest.mark.apart
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


@graph_engine
@pytest.mark.apart
def test_after_a_capture_that_failed_others_succeed() -> None:
    with pytest.warns(RuntimeWarning, match="no CUDA graph, training goes on eagerly"):
        run(ENVIRONMENTS["CartPole"](), small(), Waiting())
    graph, _ = run(ENVIRONMENTS["CartPole"](), small(engine="graph"))
    eager, _ = run(ENVIRONMENTS["CartPole"](), small(engine="eager"))
    assert graph.engine == "graph"
    assert_same_run(graph, eager)


class WaitingBonus(IntrinsicReward):
    """A bonus that reads a number on the host: the rollout can be captured, the update cannot."""

    def forward(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        return torch.full_like(rollout.reward, 0.1 if rollout.reward.sum().item() < math.inf else 0.0)


@graph_engine
@pytest.mark.apart
def test_an_update_that_cannot_be_captured_leaves_streams_and_draws_as_they_are() -> None:
    before = torch.cuda.current_stream()
    fallen_back = PPO(ENVIRONMENTS["CartPole"](), small(**NOT_FUSED), intrinsic=WaitingBonus())
    with pytest.warns(RuntimeWarning, match="no CUDA graph, training goes on eagerly"):
        fallen_back.learn(512 * 6)
    assert torch.cuda.current_stream() == before
    assert fallen_back.engine == "eager"
    eager = PPO(ENVIRONMENTS["CartPole"](), small(engine="eager", **NOT_FUSED), intrinsic=WaitingBonus())
    assert_same_run(fallen_back, eager.learn(512 * 6))


@graph_engine
@pytest.mark.apart
def test_a_fused_iteration_that_cannot_be_captured_is_launched() -> None:
    fallen_back = PPO(ENVIRONMENTS["CartPole"](), small(engine="fused"), intrinsic=WaitingBonus())
    with pytest.warns(RuntimeWarning, match="no CUDA graph, training goes on eagerly"):
        fallen_back.learn(512 * 6)
    launched = PPO(ENVIRONMENTS["CartPole"](), small(engine="fused"), intrinsic=WaitingBonus())
    launched._begin()
    launched._loop.stages[0].run_eagerly()
    assert_same_run(fallen_back, launched.learn(512 * 6))


@graph_engine
@pytest.mark.apart
def test_graphs_that_were_asked_for_and_cannot_be_had_are_an_error() -> None:
    with pytest.raises(BackendError, match="an iteration cannot be captured"):
        run(ENVIRONMENTS["CartPole"](), small(engine="graph"), Waiting())


@fused_and_graph
def test_curiosity_made_on_a_cpu_moves_to_the_gpu(engine: str) -> None:
    env = ENVIRONMENTS["CartPole"]()
    learner = PPO(env, small(engine=engine), intrinsic=RND((4,), env.num_envs)).learn(512 * 4)
    assert learner.engine == engine
    assert {parameter.device for parameter in learner.intrinsic.parameters()} == {env.device}


@fused_and_graph
def test_the_same_seed_gives_the_same_run(engine: str) -> None:
    (one, _), (other, _) = (run(ENVIRONMENTS["CartPole"](), small(engine=engine)) for _ in range(2))
    assert_same_run(one, other)


@fused_and_graph
def test_faults_are_found(engine: str) -> None:
    env = ENVIRONMENTS["CartPole"]()
    learner, _ = run(env, small(engine=engine, log_interval=3))
    env.state.theta[5] = math.nan
    with pytest.raises(TrainingError, match="observations of environment 5 at step 0 of iteration 7"):
        learner.learn(512 * 6)
    assert all(parameter.isfinite().all() for parameter in learner.policy.parameters())


@needs("speed")
@fused_and_graph
@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_environments_are_solved(id: str, engine: str) -> None:
    goal = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0}[id]
    config = PPOConfig.for_env(id, engine=engine)
    best = [-math.inf]

    def until_solved(metrics: dict[str, float]) -> bool:
        if metrics["episodes"] >= 100:
            best[0] = max(best[0], metrics["episodic_return"])
        return best[0] < goal

    learner = PPO(operant_gpu.make(id, config.num_envs, device="cuda"), config).learn(callback=until_solved)
    assert best[0] >= goal, f"best return {best[0]} in {learner.timesteps} steps, expected {goal}"
    assert learner.engine == engine


def test_a_policy_from_the_gpu_acts_on_a_cpu(tmp_path) -> None:
    learner, _ = run(ENVIRONMENTS["CartPole"](), small(normalize_observations=True))
    learner.save(tmp_path / "policy.pt")
    loaded = PPO.load(tmp_path / "policy.pt", operant_gpu.make("CartPole-v1", 64, device="cpu"))
    obs = torch.randn(16, 4)
    assert_same_tensors({"actions": loaded.predict(obs)}, {"actions": learner.predict(obs.cuda())})


@graph_engine
# PyTorch's compiler warns of what it would do otherwise: of tf32, on every GPU that has it.
@pytest.mark.filterwarnings("default")
def test_compiled_losses_learn_alike() -> None:
    compiled, _ = run(ENVIRONMENTS["CartPole"](), small(engine="graph", compile=True))
    plain, _ = run(ENVIRONMENTS["CartPole"](), small(engine="graph"))
    assert compiled.engine == "graph"
    assert_same_tensors(compiled.policy.state_dict(), plain.policy.state_dict(), ulps=100_000, atol=1e-2)
