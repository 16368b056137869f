"""The networks that settings describe, and the protocol for those of the caller's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

from operant_gpu import InvalidConfig
from operant_gpu.models import Policy, PPOConfig
from operant_gpu.models.networks import build_network, orthogonal
from operant_gpu.models.policies.making import make_policy

OUTPUTS = 3


def network(shape: tuple[int, ...] = (4,), seed: int = 0, **changes: object) -> nn.Module:
    config = PPOConfig(**{"hidden_sizes": (16, 8), "cnn_channels": (4, 6), **changes})
    return build_network(shape, OUTPUTS, config, Generator().manual_seed(seed))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def assert_orthogonal(weight: Tensor, gain: float) -> None:
    """Check that rows, or columns where there are fewer, are perpendicular and of length `gain`."""
    rows = weight.detach().flatten(1)
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    torch.testing.assert_close(rows @ rows.T, gain**2 * torch.eye(len(rows)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("shape", "gru_size"), [((4,), 0), ((4,), 8), ((2, 10, 10), 0), ((2, 10, 10), 8)])
def test_weights_begin_orthogonal_and_biases_zero(shape: tuple[int, ...], gru_size: int) -> None:
    module = network(shape, gru_size=gru_size)
    assert_orthogonal(module.actor.weight, 0.01)
    assert_orthogonal(module.critic.weight, 1.0)
    hidden = [layer for layer in module.trunks.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(hidden) == (4 if len(shape) == 1 else 8)
    for layer in hidden:
        assert_orthogonal(layer.weight, math.sqrt(2))
    for memory in getattr(module, "memories", []):
        assert_orthogonal(memory.weight_ih, 1.0)
        assert_orthogonal(memory.weight_hh, 1.0)
    biases = [parameter for name, parameter in module.named_parameters() if "bias" in name]
    assert len(biases) == len(hidden) + 2 + (4 if gru_size else 0)
    assert all((bias == 0).all() for bias in biases)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 2, 3, 3)])
def test_orthogonal_takes_any_shape(shape: tuple[int, ...]) -> None:
    layer: nn.Conv2d | nn.Linear
    if len(shape) == 4:
        layer = orthogonal(nn.Conv2d, (2, 5, 3), 0.5, Generator())
    else:
        layer = orthogonal(nn.Linear, (shape[1], shape[0]), 0.5, Generator())
    assert layer.weight.shape == shape
    assert_orthogonal(layer.weight, 0.5)


@pytest.mark.parametrize("changes", [{}, {"gru_size": 8}, {"shared_trunk": True}])
def test_the_seed_alone_decides_the_weights(changes: dict[str, object]) -> None:
    torch.manual_seed(1)
    first = weights(network(seed=5, **changes))
    torch.manual_seed(2)
    assert torch.equal(weights(network(seed=5, **changes)), first)
    assert not torch.equal(weights(network(seed=6, **changes)), first)
    box, discrete = spaces.Box(-1, 1, (4,)), spaces.Discrete(OUTPUTS)
    one, again, other = (weights(make_policy(box, discrete, PPOConfig(seed=seed, **changes))) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def run(module: nn.Module, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and values of the first step from an empty memory."""
    if not hasattr(module, "state_size"):
        return module(obs)
    starts = torch.ones(1, len(obs), dtype=torch.bool)
    outputs, values, _ = module(obs[None], torch.zeros(len(obs), module.state_size), starts)
    return outputs[0], values[0]


@pytest.mark.parametrize("gru_size", [0, 8])
@pytest.mark.parametrize("shared", [True, False])
def test_the_value_loss_reaches_the_actors_features_only_if_shared(shared: bool, gru_size: int) -> None:
    module = network(shared_trunk=shared, gru_size=gru_size)
    _, values = run(module, random(5, 4))
    values.square().mean().backward()
    features = [*module.trunks[0].parameters(), *(module.memories[0].parameters() if gru_size else ())]
    assert all((parameter.grad is not None) is shared for parameter in features)
    assert all(parameter.grad is not None for parameter in module.trunks[-1].parameters())
    assert module.actor.weight.grad is None
    assert len(module.trunks) == (1 if shared else 2)


@pytest.mark.parametrize("gru_size", [0, 8])
@pytest.mark.parametrize("shared", [True, False])
def test_the_policy_loss_reaches_the_critics_features_only_if_shared(shared: bool, gru_size: int) -> None:
    module = network(shared_trunk=shared, gru_size=gru_size)
    outputs, _ = run(module, random(5, 4))
    outputs.square().mean().backward()
    features = [*module.trunks[-1].parameters(), *(module.memories[-1].parameters() if gru_size else ())]
    assert all((parameter.grad is not None) is shared for parameter in features)
    assert module.critic.weight.grad is None


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tanh", torch.tanh),
        ("relu", torch.relu),
        ("elu", nn.functional.elu),
        ("silu", nn.functional.silu),
        ("gelu", nn.functional.gelu),
    ],
)
def test_the_network_is_the_formula(name: str, function) -> None:
    module, obs = network(activation=name), random(5, 4)
    results = []
    for trunk, head in zip(module.trunks, (module.actor, module.critic), strict=True):
        first, second = (layer for layer in trunk if isinstance(layer, nn.Linear))
        x = function(obs @ first.weight.T + first.bias)
        x = function(x @ second.weight.T + second.bias)
        results.append(x @ head.weight.T + head.bias)
    outputs, values = module(obs)
    torch.testing.assert_close(outputs, results[0])
    torch.testing.assert_close(values, results[1][:, 0])


def test_convolutions_see_the_image_as_channels_first() -> None:
    module, obs = network((2, 10, 10), activation="relu", shared_trunk=True), random(5, 2, 10, 10)
    convolutions = [layer for layer in module.trunks[0] if isinstance(layer, nn.Conv2d)]
    linears = [layer for layer in module.trunks[0] if isinstance(layer, nn.Linear)]
    assert [layer.weight.shape for layer in convolutions] == [(4, 2, 3, 3), (6, 4, 3, 3)]
    # 10 x 10 pixels lose two to each convolution.
    assert [layer.weight.shape for layer in linears] == [(16, 6 * 6 * 6), (8, 16)]
    x = obs
    for layer in convolutions:
        x = torch.relu(nn.functional.conv2d(x, layer.weight, layer.bias))
    x = x.flatten(1)
    for layer in linears:
        x = torch.relu(layer(x))
    torch.testing.assert_close(module(obs)[0], module.actor(x))


@pytest.mark.parametrize("gru_size", [0, 8])
@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 10, 10), (1, 5, 5), (2, 2, 2, 2)])
def test_results_have_the_shapes_of_the_protocol(shape: tuple[int, ...], gru_size: int) -> None:
    outputs, values = run(network(shape, gru_size=gru_size), random(5, *shape))
    assert outputs.shape == (5, OUTPUTS)
    assert values.shape == (5,)


@pytest.mark.parametrize("changes", [{"hidden_sizes": ()}, {"hidden_sizes": (), "shared_trunk": True}])
def test_without_hidden_layers_the_network_is_linear(changes: dict[str, object]) -> None:
    module, obs = network(**changes), random(5, 4)
    torch.testing.assert_close(module(obs)[0], obs @ module.actor.weight.T)
    torch.testing.assert_close(module(obs)[1], obs @ module.critic.weight[0])


def test_without_channels_an_image_is_flattened() -> None:
    module = network((2, 3, 3), cnn_channels=())
    assert not any(isinstance(layer, nn.Conv2d) for layer in module.modules())
    assert module(random(5, 2, 3, 3))[0].shape == (5, OUTPUTS)


@pytest.mark.parametrize("gru_size", [0, 8])
@pytest.mark.parametrize("shape", [(2, 4, 10), (2, 10, 4), (1, 1, 1)])
def test_images_too_small_for_the_convolutions_are_refused(shape: tuple[int, ...], gru_size: int) -> None:
    with pytest.raises(InvalidConfig, match=r"^cnn_channels: images of shape .* are too small") as caught:
        network(shape, gru_size=gru_size)
    assert str(shape) in str(caught.value)


STEPS, BATCH = 12, 5


def sequence(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return observations and where episodes start, at other steps in each sequence."""
    return random(STEPS, BATCH, 4, seed=seed), random(STEPS, BATCH, seed=seed + 1) > 1.0


@pytest.mark.parametrize("shared", [True, False])
def test_a_sequence_at_once_is_that_step_by_step(shared: bool) -> None:
    module = network(gru_size=8, shared_trunk=shared)
    assert module.state_size == (8 if shared else 16)
    obs, starts = sequence()
    assert starts.any()
    first = random(BATCH, module.state_size, seed=3)
    outputs, values, last = module(obs, first, starts)
    state = first
    for step in range(STEPS):
        output, value, state = module(obs[step : step + 1], state, starts[step : step + 1])
        torch.testing.assert_close(outputs[step], output[0])
        torch.testing.assert_close(values[step], value[0])
    torch.testing.assert_close(last, state)


def test_memory_is_that_of_the_gru() -> None:
    """Each trunk has its own part of the state, set to zero where an episode starts."""
    module = network(gru_size=8)
    obs, starts = sequence()
    state = random(BATCH, 16, seed=3)
    _, _, last = module(obs, state, starts)
    for part, trunk, memory in zip((slice(0, 8), slice(8, 16)), module.trunks, module.memories, strict=True):
        own = state[:, part].clone()
        for step in range(STEPS):
            own[starts[step]] = 0.0
            own = memory(trunk(obs[step]), own)
        torch.testing.assert_close(last[:, part], own)


def test_memory_is_emptied_exactly_where_an_episode_starts() -> None:
    module, obs = network(gru_size=8), random(1, 4, 4)
    starts = torch.tensor([[True, False, False, True]])
    one, other = (module(obs, random(4, 16, seed=seed), starts)[2] for seed in (1, 2))
    assert torch.equal((one == other).all(1), starts[0])
    empty = module(obs, torch.zeros(4, 16), starts)[2]
    torch.testing.assert_close(empty[starts[0]], one[starts[0]], rtol=0, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_start_empties_a_memory_that_is_not_finite(bad: float) -> None:
    module, obs = network(gru_size=8), random(2, 3, 4)
    starts = torch.tensor([[True] * 3, [False] * 3])
    clean = module(obs, torch.zeros(3, 16), starts)
    for result, expected in zip(module(obs, torch.full((3, 16), bad), starts), clean, strict=True):
        torch.testing.assert_close(result, expected)


def test_gradients_go_back_through_time_but_not_over_a_start() -> None:
    module = network(gru_size=8)
    obs, starts = random(6, 1, 4).requires_grad_(), torch.tensor([[False, False, False, True, False, False]]).T
    state = random(1, 16).requires_grad_()
    outputs, values, _ = module(obs, state, starts)
    (outputs[-1].sum() + values[-1].sum()).backward()
    assert (obs.grad != 0).any((1, 2)).tolist() == [False, False, False, True, True, True]
    assert (state.grad == 0).all()
    obs.grad = None
    outputs, values, _ = module(obs, state, starts)
    (outputs[2].sum() + values[2].sum()).backward()
    assert (obs.grad != 0).any((1, 2)).tolist() == [True, True, True, False, False, False]
    assert (state.grad != 0).any()


class FeedForward(nn.Module):
    """Keeps to the protocol; what is not None takes the place of a result."""

    def __init__(self, outputs: object = None, values: object = None) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, OUTPUTS + 1), nn.BatchNorm1d(4)
        self.instead = outputs, values

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        out = self.layer(self.norm(obs))
        results = out[:, :-1], out[:, -1]
        return tuple(r if i is None else i(r) for r, i in zip(results, self.instead, strict=True))


class Recurrent(nn.Module):
    """As `FeedForward`, with a memory that sums observations."""

    state_size = 4

    def __init__(self, outputs: object = None, values: object = None, state: object = None) -> None:
        super().__init__()
        self.layer = nn.Linear(4, OUTPUTS + 1)
        self.instead = outputs, values, state

    def forward(self, obs: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        history = []
        for seen, start in zip(obs, starts, strict=True):
            state = torch.where(start[:, None], 0.0, state) + seen
            history.append(state)
        out = self.layer(torch.stack(history))
        results = out[..., :-1], out[..., -1], state
        return tuple(r if i is None else i(r) for r, i in zip(results, self.instead, strict=True))


def policy_with(own: object) -> Policy:
    return make_policy(spaces.Box(-np.inf, np.inf, (4,)), spaces.Discrete(OUTPUTS), PPOConfig(), own)


def test_a_network_of_the_callers_own_is_taken_as_it_is() -> None:
    own = FeedForward()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    policy = policy_with(own)
    assert policy.network is own
    assert policy.state_size == 0
    torch.testing.assert_close(own.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in own.parameters())
    assert own.training
    assert policy.act(torch.zeros(7, 4), None, None, None, Generator()).actions.shape == (7,)
    assert not policy_with(FeedForward().eval()).network.training


def test_a_recurrent_network_of_the_callers_own_is_taken() -> None:
    policy = policy_with(Recurrent())
    assert policy.state_size == 4
    starts, obs = torch.tensor([True, False]), torch.ones(2, 4)
    decision = policy.act(obs, torch.ones(2, 4), starts, None, Generator())
    assert decision.values.shape == (2,)
    assert decision.state.tolist() == [[1.0] * 4, [2.0] * 4]


def test_a_network_without_parameters_to_train_is_refused() -> None:
    class Fixed(nn.Module):
        def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
            return obs[:, :OUTPUTS], obs[:, 0]

    for own in (Fixed(), FeedForward().requires_grad_(False)):
        with pytest.raises(InvalidConfig, match="no parameter to train"):
            policy_with(own)


def test_a_network_that_is_an_empty_container_is_taken() -> None:
    """Modules with a length, as `nn.Sequential` has one, are false where it is 0."""

    class Container(FeedForward):
        def __len__(self) -> int:
            return 0

    own = Container()
    assert policy_with(own).network is own


def test_the_trial_leaves_each_part_of_the_network_in_its_mode() -> None:
    own = FeedForward()
    own.norm.eval()
    assert not policy_with(own).network.norm.training


class Failing(nn.Module):
    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        raise KeyError("missing part")


class One(nn.Module):
    def forward(self, obs: Tensor) -> Tensor:
        return obs[:, :OUTPUTS]


class Three(nn.Module):
    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs[:, :OUTPUTS], obs[:, 0], obs


class Nothing(nn.Module):
    def forward(self, obs: Tensor) -> None:
        return None


class Named(nn.Module):
    def forward(self, obs: Tensor) -> dict[str, Tensor]:
        return {"outputs": obs[:, :OUTPUTS], "values": obs[:, 0]}


class WithoutMemory(FeedForward):
    state_size = 4


MUST = "must return shapes"
REFUSED = {
    "too few outputs": (FeedForward(outputs=lambda x: x[:, 1:]), MUST),
    "values of two axes": (FeedForward(values=lambda x: x[:, None]), MUST),
    "one value": (FeedForward(values=lambda x: x.mean()), MUST),
    "one result": (One(), MUST),
    "three results": (Three(), MUST),
    "no result": (Nothing(), "failed on observations"),
    "a dictionary": (Named(), "failed on observations"),
    "numbers": (FeedForward(values=lambda x: 0.0), "failed on observations"),
    "an exception": (Failing(), "failed on observations .*missing part"),
    "another input size": (nn.Sequential(nn.Linear(5, 2), FeedForward()), "failed on observations"),
    "state of another size": (Recurrent(state=lambda x: x[:, 1:]), MUST),
    "outputs of the last step": (Recurrent(outputs=lambda x: x[-1]), MUST),
    "values of the last step": (Recurrent(values=lambda x: x[-1]), MUST),
    "state_size, but no memory": (WithoutMemory(), "failed on observations"),
    "a function": (lambda obs: (obs, obs), "expected a torch.nn.Module"),
    "a class": (FeedForward, "expected a torch.nn.Module"),
    "a name": ("mlp", "expected a torch.nn.Module"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_does_not_keep_to_the_protocol_is_refused(case: str) -> None:
    own, message = REFUSED[case]
    with pytest.raises(InvalidConfig, match=rf"^network: .*{message}") as caught:
        policy_with(own)
    assert caught.value.param == "network"


def test_the_refusal_says_what_was_expected() -> None:
    with pytest.raises(InvalidConfig) as caught:
        policy_with(FeedForward(values=lambda x: x[:, None]))
    text = str(caught.value)
    assert "forward(obs) -> (outputs, values)" in text
    assert "[(2, 3), (2,)] for observations (2, 4), got [(2, 3), (2, 1)]" in text
    with pytest.raises(InvalidConfig) as caught:
        policy_with(Recurrent(state=lambda x: x[:1]))
    text = str(caught.value)
    assert "forward(obs, state, starts) -> (outputs, values, state)" in text
    assert "[(1, 2, 3), (1, 2), (2, 4)] for observations (1, 2, 4)" in text


@pytest.mark.parametrize("size", [None, "four", 2.5, -1])
def test_a_state_size_that_is_no_size_is_refused(size: object) -> None:
    own = Recurrent()
    own.state_size = size
    with pytest.raises(InvalidConfig, match=r"^network: "):
        policy_with(own)
