"""The learner on other cards: the compiler is asked for which shape of the gradient kernel there is room."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from executed import executed
from here import HAS_TRITON, ROOT

pytest.importorskip("triton", reason="compilation needs Triton")

import triton
import triton.language as tl
from updates import DISCRETE, Fused, case

import operant_gpu
from operant_gpu.backends.triton import update as triton_update
from operant_gpu.backends.triton.launching import launch
from operant_gpu.backends.triton.update import Fit, Shape
from operant_gpu.errors import InvalidConfig
from operant_gpu.kernels.triton.objective import piece_of
from operant_gpu.models import PPO, MLPPolicy, PPOConfig
from operant_gpu.models.ppo import fused
from operant_gpu.models.presets import LARGE_PRESETS, PRESETS

# By inputs, hidden layers and outputs, the samples of a tile in tf32 and exact; None where PyTorch's kernels are taken.
LARGE = {
    "4x64x64x2": (64, 32),
    "17x64x64x6": (64, 32),
    "33x64x64x6": (64, 32),
    "33x64x64x33": (64, 32),
    "64x64x64x63": (64, 32),
    "4x64x64x64x2": (32, 16),
    "17x64x64x64x6": (32, 16),
    "33x64x64x64x6": (32, 16),
    "64x64x64x64x63": (32, None),
    "64x32x32x32x63": (32, 16),
}
SMALL = {
    "4x64x64x2": (32, 16),
    "17x64x64x6": (32, None),
    "33x64x64x6": (None, None),
    "64x64x64x4": (None, None),
    "4x64x64x64x2": (None, None),
    "64x32x32x63": (64, 32),
    "64x32x32x32x63": (32, 16),
}
OF_A100 = {
    "4x64x64x2": (64, 32),
    "17x64x64x6": (64, 32),
    "33x64x64x6": (64, 32),
    "33x64x64x33": (64, None),
    "64x64x64x63": (64, None),
    "4x64x64x64x2": (32, 16),
    "17x64x64x64x6": (32, None),
    "33x64x64x64x6": (32, None),
    "64x64x64x64x63": (None, None),
    "64x32x32x32x63": (32, 16),
}
# Operands of products lie in a memory of their own there.
OF_B200 = LARGE | {"64x64x64x64x63": (32, 16)}
TILES = {"sm_80": OF_A100, "sm_86": SMALL, "sm_89": SMALL, "sm_90": LARGE, "sm_100": OF_B200, "sm_120": SMALL}
LIMITS = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448, "sm_120": 101_376}


@pytest.mark.parametrize(
    ("target", "networks"),
    [
        pytest.param("sm_86", ("17x64x64x6",)),
        *(pytest.param(target, tuple(tiles), marks=pytest.mark.thorough) for target, tiles in TILES.items()),
    ],
)
def test_the_first_shape_that_fits_is_taken(target: str, networks: tuple[str, ...]) -> None:
    table = executed("fits.py", target.removeprefix("sm_"), ",".join(networks))
    for name, fit in table.items():
        _, network, precision = name.split()
        tile = None if fit is None else fit[0]
        assert tile == TILES[target][network][precision == "ieee"], name
        assert fit is None or fit[2] <= LIMITS[target], name
    assert len(table) == 2 * len(networks)


def network_of(id: str) -> tuple[str, str]:
    """Return the inputs and outputs of the network that `train` takes on a GPU, and what `TILES` would call it."""
    env = operant_gpu.make(id, 4, device="cpu", backend="numpy")
    policy = MLPPolicy(env.single_observation_space, env.single_action_space, PPOConfig.for_env(id, size="large"))
    layout = policy.mlp.layout
    name = "x".join(map(str, (layout.inputs, *layout.hidden_sizes, layout.outputs)))
    return f"{layout.inputs} and {layout.outputs}", name


def engine_of(target: str, network: str) -> str:
    """Return the engine that a network gets on a card, by those that the compiler was asked about."""
    inputs, *hidden, outputs = map(int, network.split("x"))
    for asked, (tile, _) in TILES[target].items():
        their_inputs, *their_hidden, their_outputs = map(int, asked.split("x"))
        if their_hidden == hidden:
            if tile is not None and their_inputs >= inputs and their_outputs >= outputs:
                return "fused"
            if tile is None and their_inputs <= inputs and their_outputs <= outputs:
                return "graph"
    raise AssertionError(f"the compiler was asked about nothing like {network} on {target}")


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["sm_80", "sm_89"])
def test_the_networks_of_presets_fit_as_the_page_says(target: str) -> None:
    table = executed("fits.py", target.removeprefix("sm_"), ",".join(LARGE_PRESETS))
    for id in LARGE_PRESETS:
        engine = "graph" if table[f"{target} {id} tf32"] is None else "fused"
        assert engine == engine_of(target, network_of(id)[1]), id


@pytest.mark.quick
def test_the_page_about_installing_has_the_engine_of_each_environment() -> None:
    groups = ("sm_80", "sm_90", "sm_100"), ("sm_86", "sm_89", "sm_120")
    expected = []
    for id in LARGE_PRESETS:
        sizes, network = network_of(id)
        engines = [{engine_of(target, network) for target in group} for group in groups]
        expected.append(f"| {id} | {sizes} | {' | '.join(engine for (engine,) in engines)} | graph |")
    others = [id for id in PRESETS if id not in LARGE_PRESETS]
    for id in others:
        env = operant_gpu.make(id, 4, device="cpu")
        with pytest.raises(InvalidConfig, match=r"cnn_channels|hidden_sizes"):
            MLPPolicy(env.single_observation_space, env.single_action_space, PPOConfig.for_env(id))
    expected.append(f"| {', '.join(others)} | convolutions or wide layers | graph | graph | graph |")
    page = (ROOT / "docs" / "installing.md").read_text()
    table = page.split("<!-- environments:begin -->\n")[1].split("<!-- environments:end -->")[0]
    assert table.splitlines()[2:] == expected


def largest(target: str, hidden: str, exact: bool) -> str:
    """Return inputs and outputs of the largest network that the fused engine trains, in the page's words."""
    tiles = {
        network: tile[exact] for network, tile in TILES[target].items() if re.fullmatch(rf"\d+{hidden}\d+", network)
    }
    fitting = [network for network, tile in tiles.items() if tile is not None]
    if not fitting:
        return "graph"
    inputs, *_, outputs = fitting[-1].split("x")
    return "all" if (inputs, outputs) == ("64", "63") else f"{inputs} and {outputs}"


@pytest.mark.quick
def test_the_page_about_installing_has_what_each_card_can_train() -> None:
    cards = {
        "sm_100": "B200",
        "sm_90": "H100, H200",
        "sm_80": "A100",
        "sm_86": "RTX 30, A10",
        "sm_89": "RTX 40, L4, L40S",
        "sm_120": "RTX 50",
    }
    expected = []
    for target, card in cards.items():
        cells = [largest(target, hidden, exact) for hidden in ("x64x64x", "x64x64x64x") for exact in (False, True)]
        assert {largest(target, "x32x32x32x", exact) for exact in (False, True)} == {"all"}
        expected.append(f"| {card} ({target}) | {' | '.join(cells)} | all |")
    expected.append("| T4 (sm_75) and older | graph | graph | graph | graph | graph |")
    page = (ROOT / "docs" / "installing.md").read_text()
    table = page.split("<!-- cards:begin -->\n")[1].split("<!-- cards:end -->")[0]
    assert table.splitlines()[2:] == expected


# A card of 128 multiprocessors with 100 KiB each, an A100 and an H100.
CARDS = {"small": (128, 102_400), "A100": (108, 167_936), "H100": (132, 233_472)}


@pytest.mark.parametrize(
    ("card", "fit", "each"),
    [
        ("H100", Fit(Shape(64, 4), 102_400), 2),
        ("A100", Fit(Shape(64, 4), 102_400), 1),
        ("small", Fit(Shape(32, 8), 86_016), 1),
        # 256 threads take all registers there are.
        ("H100", Fit(Shape(16, 8), 77_824), 1),
        ("A100", Fit(Shape(16, 4), 77_824), 2),
    ],
)
def test_as_many_programs_as_a_card_holds(card: str, fit: Fit, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count, memory = CARDS[card]
    properties = SimpleNamespace(multi_processor_count=count, shared_memory_per_multiprocessor=memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert triton_update._programs_at_once(torch.device("cuda", 0), fit) == each * count


class Compiler:
    """Says that each shape of the gradient kernel takes so many bytes."""

    def __init__(self, bytes_of: Callable[[int], int]) -> None:
        self.bytes_of, self.asked = bytes_of, list[int]()

    def __call__(self, kernel: Any, arguments: Any, constants: dict[str, Any], *options: Any) -> Any:
        self.asked.append(constants["BLOCK"])
        return SimpleNamespace(metadata=SimpleNamespace(shared=self.bytes_of(constants["BLOCK"])))


@pytest.fixture
def learner_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PPO]:
    """Make learners whose kernels are Triton's, on a card with 99 KiB for a program; nothing is launched."""
    monkeypatch.setattr(fused, "kernels_for", lambda env: triton_update)
    monkeypatch.setattr(triton_update, "INTERPRETED", False)
    monkeypatch.setattr(triton_update, "_shared_memory", lambda device: 101_376)

    def make(compiler: Compiler, **settings: Any) -> PPO:
        monkeypatch.setattr(triton_update, "compiled", compiler)
        env = operant_gpu.make("CartPole-v1", 4, device="cpu", backend="numpy")
        return PPO(env, PPOConfig(**{"n_steps": 4, "batch_size": 8, "hidden_sizes": (64, 64), **settings}))

    return make


def test_auto_takes_other_engines_where_no_shape_fits(learner_of: Callable[..., PPO]) -> None:
    compiler = Compiler(lambda block: 110_592)
    learner = learner_of(compiler).learn(16)
    assert compiler.asked == [64, 32, 16]
    assert learner.engine == "eager"
    expected = "not fused: its kernels for tf32 do not fit in the 101,376 bytes that a program has on cpu"
    assert learner.engine_reason == expected
    with pytest.raises(InvalidConfig, match="'fused' cannot be had here: its kernels for tf32 do not fit"):
        learner_of(compiler, engine="fused")


def test_cards_before_ampere_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    mlp = SimpleNamespace(
        parameters=SimpleNamespace(device=torch.device("cuda", 0)),
        layout=SimpleNamespace(inputs=4, hidden_sizes=(64,), outputs=2),
    )
    expected = "its kernels are for compute capability 8.0 and newer, found 7.5"
    assert triton_update.find_misfit(mlp, None, None, None) == expected


def test_a_precision_that_is_set_later_has_a_shape_of_its_own(learner_of: Callable[..., PPO]) -> None:
    learner = learner_of(Compiler(lambda block: 1_500 * block))
    assert learner.engine == "fused"
    assert learner._loop.update._steps._shape == Shape(64, 4)
    learner.policy.precision = "ieee"
    learner._begin()
    assert learner._loop.update._steps._shape == Shape(32, 8)
    # Exact products have no such shape.
    learner = learner_of(Compiler(lambda block: 90_000 if block == 64 else 110_592))
    assert learner.engine == "fused"
    learner.policy.precision = "ieee"
    learner.learn(16)
    assert learner.engine == "eager"
    assert "do not fit" in learner.engine_reason
    assert learner.policy.flat.isfinite().all()


def test_grids_hold_for_more_gradient_steps_than_a_grid_has_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = case(DISCRETE, size=(2, 32_769), minibatches=32_769, n_epochs=2)
    monkeypatch.setattr(triton_update, "find_fit", lambda *_: Fit(Shape(16, 4), 0))
    fused_steps = Fused(given, triton_update)
    grids: dict[str, tuple[int, ...]] = {}
    monkeypatch.setattr(
        triton_update, "launch", lambda kernel, grid, *_: grids.update({getattr(kernel, "__name__", ""): grid})
    )
    fused_steps.run()
    assert grids["moments_kernel"] == (65_538, triton_update.PIECES)
    assert len(grids) == 5
    for grid in grids.values():
        assert all(size <= 65_535 for size in grid[1:]), grids


@pytest.mark.parametrize(
    ("settings", "num_envs", "named"),
    [
        (
            {"n_steps": 2**20, "batch_size": 2**20},
            2**11,
            "n_steps: expected at most 2,147,483,647, got 1048576 x 2048 =",
        ),
        ({"n_steps": 2**10, "batch_size": 2}, 2**11, "batch_size: .* got 4 epochs of 1,048,576 minibatches: raise it"),
    ],
)
def test_more_steps_than_there_are_numbers_for_are_refused(settings: dict[str, int], num_envs: int, named: str) -> None:
    with pytest.raises(InvalidConfig, match=named):
        PPOConfig(**settings).fitted(num_envs)


@triton.jit
def pieces_kernel(bounds_ptr, count, PIECES: tl.constexpr):
    first, last = piece_of(count, tl.program_id(0), PIECES)
    tl.store(bounds_ptr + 2 * tl.program_id(0), first)
    tl.store(bounds_ptr + 2 * tl.program_id(0) + 1, last)


@pytest.mark.skipif(not HAS_TRITON, reason="needs what runs Triton's kernels")
@pytest.mark.parametrize("count", [1, 31, 1_000, 70_000_000, 2**31 - 1])
def test_triton_cuts_minibatches_of_any_size_in_pieces(count: int) -> None:
    bounds = torch.zeros(triton_update.PIECES, 2, dtype=torch.int64)
    constants = {"PIECES": triton_update.PIECES}
    launch(pieces_kernel, (triton_update.PIECES,), (bounds, count), constants, bounds.device, triton_update.OPTIONS, "")
    assert bounds[0, 0] == 0
    assert bounds[-1, 1] == count
    assert torch.equal(bounds[1:, 0], bounds[:-1, 1])
    sizes = bounds[:, 1] - bounds[:, 0]
    assert sizes.max() - sizes.min() <= 1
