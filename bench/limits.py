"""What the device does at most: the limits that speeds are compared with."""

from __future__ import annotations

import torch

from operant_gpu.cli.timing import Contender, race, waiter

ON_GPU = torch.cuda.is_available()
COPY_BYTES = 1 << (30 if ON_GPU else 28)
MATRIX = 8192 if ON_GPU else 1024


def references(repeats: int = 7, seconds: float = 0.2) -> dict[str, float]:
    """Return bytes a second of a copy (read and written), operations a second of a matrix product; float32 on a GPU."""
    device = "cuda" if ON_GPU else "cpu"
    wait = waiter(device)
    # Not constant: numbers of one value may be multiplied faster.
    source = torch.randint(0, 255, (COPY_BYTES,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(MATRIX, MATRIX, device=device) for _ in range(2))

    def product(allow_tf32: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
        torch.mm(a, b)

    contenders = [
        Contender("copy", lambda _: target.copy_(source), wait, 2 * COPY_BYTES),
        # tf32 on a GPU, as the networks inside a rollout by default.
        Contender("product", lambda _: product(True), wait, 2 * MATRIX**3),
    ]
    if ON_GPU:
        contenders.append(Contender("float32 product", lambda _: product(False), wait, 2 * MATRIX**3))
    rows = {row["contender"]: row["per_second"] for row in race(contenders, repeats, seconds)}
    found = {"copy_bytes_per_second": rows["copy"], "matrix_flop_per_second": rows["product"]}
    return found | ({"float32_flop_per_second": rows["float32 product"]} if ON_GPU else {})
