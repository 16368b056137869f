"""What processes send to each other between GPUs."""

from __future__ import annotations

import learned_together as program
import pytest
import torch
import torch.distributed as dist
from gpu_checks import needs
from learned_together import CASES, FUSED
from together import results

from operant_gpu.processes import Group
from operant_gpu.vector.graphs import captured, warmed_up

pytestmark = pytest.mark.gpu


@needs("graphs of PyTorch")
def test_a_graph_replays_what_nccl_sends() -> None:
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
    group = Group(dist.group.WORLD)
    device = torch.device("cuda", torch.cuda.current_device())
    given = torch.ones(1000, device=device)
    mean, rows = torch.zeros(1000, device=device), torch.zeros(1, 1000, device=device)

    def send() -> None:
        mean.copy_(given)
        group.average(mean)
        rows.copy_(group.gather(given))

    try:
        graph, _ = captured(send, warmed_up(send, device))
        given.fill_(3.0)
        graph.replay()
        assert torch.equal(mean, given)
        assert torch.equal(rows[0], given)
    finally:
        group.leave()
        dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(("engine", "names"), [("eager", [*CASES]), ("graph", [*CASES]), ("fused", FUSED)])
def test_processes_on_two_gpus_are_equal_to_the_bit_after_twenty_iterations(engine: str, names: list[str]) -> None:
    first, second = results(program.of_each, "train", names, engine, 20, "cuda", limit=300.0)
    for name in names:
        assert all(map(torch.equal, first[name][0], second[name][0])), name
