"""Products of warpgroups on the executor against float64's, of operands laid out as the PTX ISA draws them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from ptx_executor import ExecutionFault, Executor, Module, PtxError, RaceFault, Unsupported

pytestmark = pytest.mark.quick

# Bytes of a row by the mode of the swizzle; without one, of a block of eight rows.
SPANS = {0: 16, 1: 128, 2: 64, 3: 32}
# Copies the image to shared memory, multiplies, and stores the accumulators of each thread.
TEXT = """
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 memory[];
.visible .entry product(.param .u64 image, .param .u64 fragments, .param .u64 out, .param .u32 bytes)
{
    .reg .pred %p<4>;
    .reg .b32 %r<20>;
    .reg .b32 %a<64>;
    .reg .b32 %d<128>;
    .reg .b64 %rd<20>;
    ld.param.u64 %rd1, [image];
    ld.param.u64 %rd2, [fragments];
    ld.param.u64 %rd3, [out];
    ld.param.u32 %r2, [bytes];
    mov.u32 %r0, %tid.x;
    mov.u32 %r7, %ntid.x;
    shl.b32 %r8, %r7, 2;
    shl.b32 %r1, %r0, 2;
    mul.wide.u32 %rd4, %r0, 4;
    mul.wide.u32 %rd8, %r7, 4;
    add.u64 %rd5, %rd1, %rd4;
    add.u64 %rd6, %rd2, %rd4;
    add.u64 %rd7, %rd3, %rd4;
more:
    setp.ge.u32 %p1, %r1, %r2;
    @%p1 bra done;
    ld.global.b32 %r3, [%rd5];
    st.shared.b32 [%r1], %r3;
    add.u32 %r1, %r1, %r8;
    add.u64 %rd5, %rd5, %rd8;
    bra more;
done:
    fence.proxy.async.shared::cta;
    bar.sync 0;
    PRODUCTS
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    STORES
    ret;
}
"""


class Product(NamedTuple):
    """What a kernel multiplies: rows of operands lie along the dimension of the sum."""

    a: np.ndarray[Any, Any]  # (64, depth)
    b: np.ndarray[Any, Any]  # (columns, depth)
    mode: int = 1
    has_registers: bool = True
    signs: tuple[int, int] = (1, 1)

    @property
    def steps(self) -> int:
        return self.a.shape[1] // 8


def operands(columns: int, depth: int, **options: Any) -> Product:
    rng = np.random.default_rng(columns + depth)
    a, b = (rng.standard_normal((rows, depth)).astype(np.float32) for rows in (64, columns))
    return Product(a, b, **options)


def image_of(matrix: np.ndarray[Any, Any], mode: int) -> np.ndarray[Any, Any]:
    """Return 16-byte pieces (rows / 8, 8 rows, pieces of a row), each where the layout has it."""
    rows, depth = matrix.shape
    pieces = matrix.reshape(rows // 8, 8, depth // 4, 4)
    if mode == 0:
        # All first pieces of eight rows, then all second ones.
        return pieces.transpose(0, 2, 1, 3).reshape(-1)
    assert depth * 4 == SPANS[mode]
    moved, row = np.empty_like(pieces), np.arange(8)
    place_of_row = {1: row, 2: row // 2, 3: row // 4}[mode]
    for piece in range(depth // 4):
        moved[:, row, piece ^ place_of_row] = pieces[:, row, piece]
    return moved.reshape(-1)


def descriptor(start: int, depth: int, mode: int, step: int) -> int:
    """Return the descriptor of eight numbers of each row."""
    if mode == 0:
        start, leading, stride = start + 256 * step, 128, 32 * depth
    else:
        start, leading, stride = start + 32 * step, 0, 8 * SPANS[mode]
    return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | mode << 62


def text_of(product: Product, shift: int = 0) -> str:
    """Return a kernel; `shift` is added to the descriptors of the second operand."""
    depth, columns = product.a.shape[1], len(product.b)
    lines = []
    start_of_b = 0 if product.has_registers else product.a.nbytes
    accumulators = ",".join(f"%d{i}" for i in range(columns // 2))
    for step in range(product.steps):
        at = 4 * step
        if product.has_registers:
            lines += [f"ld.global.b32 %a{at + i}, [%rd6+{512 * (at + i)}];" for i in range(4)]
            left = f"{{%a{at},%a{at + 1},%a{at + 2},%a{at + 3}}}"
        else:
            left = "%rd9"
            lines.append(f"mov.b64 {left}, {descriptor(0, depth, product.mode, step)};")
        lines.append(f"mov.b64 %rd{10 + step}, {descriptor(start_of_b, depth, product.mode, step) + shift};")
        if step == 0:
            lines.append("wgmma.fence.sync.aligned;")
        signs = ", ".join(map(str, product.signs))
        lines.append(
            f"wgmma.mma_async.sync.aligned.m64n{columns}k8.f32.tf32.tf32 {{{accumulators}}}, {left}, %rd{10 + step}, "
            f"{int(step > 0)}, {signs};"
        )
    stores = [f"st.global.b32 [%rd7+{512 * i}], %d{i};" for i in range(columns // 2)]
    return TEXT.replace("PRODUCTS", "\n".join(lines)).replace("STORES", "\n".join(stores))


def fragments_of(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the registers of the first operand: (steps, 4, threads)."""
    thread, found = np.arange(128), []
    for step in range(a.shape[1] // 8):
        for i in range(4):
            row = 16 * (thread // 32) + thread % 32 // 4 + 8 * (i % 2)
            found.append(a[row, 8 * step + thread % 4 + 4 * (i // 2)])
    return np.array(found)


def run(product: Product, text: str | None = None, **options: Any) -> np.ndarray[Any, Any]:
    """Return the product (64, columns) as the registers of 128 threads have it."""
    parts = [product.b] if product.has_registers else [product.a, product.b]
    image = np.concatenate([image_of(part, product.mode) for part in parts])
    fragments, columns = fragments_of(product.a), len(product.b)
    out = np.full((columns // 2, 128), np.nan, np.float32)
    kernel = Module(text or text_of(product)).kernel()
    given = [
        (array.ctypes.data, array.nbytes, name) for name, array in (("image", image), ("a", fragments), ("out", out))
    ]
    parameters = kernel.packed([*(address for address, *_ in given), image.nbytes])
    Executor(**options).launch(kernel, (1,), (128,), parameters, given, image.nbytes)
    found, thread = np.full((64, columns), np.nan, np.float32), np.arange(128)
    for i in range(columns // 2):
        row = 16 * (thread // 32) + thread % 32 // 4 + 8 * (i // 2 % 2)
        found[row, 8 * (i // 4) + 2 * (thread % 4) + i % 2] = out[i]
    return found


def expected(product: Product) -> np.ndarray[Any, Any]:
    a, b = ((one.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64) for one in (product.a, product.b))
    return product.signs[0] * product.signs[1] * (a @ b.T)


def assert_near(product: Product, found: np.ndarray[Any, Any]) -> None:
    # A rounding of each sum of eight products. What is lost of operands is a thousand times more.
    np.testing.assert_allclose(found, expected(product), rtol=0, atol=4e-7 * product.steps * product.a.shape[1] ** 0.5)


@pytest.mark.parametrize("has_registers", [True, False], ids=["registers", "shared"])
@pytest.mark.parametrize("mode", [0, 1, 2, 3], ids=["plain", "128B", "64B", "32B"])
def test_products_of_every_layout(mode: int, has_registers: bool) -> None:
    product = operands(24, SPANS[mode or 1] // 4, mode=mode, has_registers=has_registers)
    assert_near(product, run(product))


@pytest.mark.parametrize("columns", [8, 16, 32, 64, 128, 256])
def test_products_of_every_width(columns: int) -> None:
    product = operands(columns, 32)
    assert_near(product, run(product, schedule=1))


@pytest.mark.parametrize("signs", [(-1, 1), (-1, -1)])
def test_signs(signs: tuple[int, int]) -> None:
    product = operands(8, 16, mode=2, signs=signs)
    assert_near(product, run(product))


# Of one thread.
STORE = "setp.eq.u32 %p2, %r0, 0;\n@%p2 st.shared.b32 [0], %r7;"
# What is changed in the text, and what the executor says.
FAULTS = {
    "no fence of proxies": ("fence.proxy.async.shared::cta;", "", ExecutionFault, "no fence.proxy.async"),
    "no fence after an atomic": (
        "bar.sync 0;",
        "bar.sync 0;\nred.shared.add.u32 [0], 0;\nbar.sync 0;",
        ExecutionFault,
        "no fence.proxy.async",
    ),
    "no barrier": ("bar.sync 0;", "", RaceFault, "shared bytes"),
    "no fence of registers": ("wgmma.fence.sync.aligned;", "", ExecutionFault, "no wgmma.fence"),
    "shared memory written before the wait": (
        "wgmma.commit_group.sync.aligned;",
        f"wgmma.commit_group.sync.aligned;\nbar.sync 0;\n{STORE}\nfence.proxy.async;\nbar.sync 0;",
        ExecutionFault,
        "an operand changed",
    ),
    "shared memory written at the same time": (
        "wgmma.commit_group.sync.aligned;",
        f"wgmma.commit_group.sync.aligned;\n{STORE}",
        RaceFault,
        "shared bytes",
    ),
    "first operand written before the wait": (
        "wgmma.commit_group.sync.aligned;",
        "wgmma.commit_group.sync.aligned;\nmov.b32 %a2, %r0;",
        ExecutionFault,
        "an operand changed",
    ),
    "result written before the wait": (
        "wgmma.commit_group.sync.aligned;",
        "wgmma.commit_group.sync.aligned;\nmov.b32 %d2, %r0;",
        ExecutionFault,
        "a register of a result was written",
    ),
    "a warp absent": (
        "wgmma.fence.sync.aligned;",
        "setp.ge.u32 %p2, %r0, 96;\n@%p2 bra out;\nwgmma.fence.sync.aligned;\nout:",
        ExecutionFault,
        "waits for lanes that never come",
    ),
    "a warp that does not execute": (
        "wgmma.fence.sync.aligned;",
        "setp.lt.u32 %p2, %r0, 96;\n@%p2 wgmma.fence.sync.aligned;",
        ExecutionFault,
        "only some of the warpgroup",
    ),
    "descriptors that differ": (
        "wgmma.fence.sync.aligned;",
        "wgmma.fence.sync.aligned;\ncvt.u64.u32 %rd10, %r0;",
        ExecutionFault,
        "does not agree on an operand",
    ),
    "another type": ("f32.tf32.tf32", "f32.bf16.bf16", Unsupported, "a product of this kind"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str) -> None:
    product = operands(8, 16, mode=2)
    old, new, error, message = FAULTS[fault]
    text = text_of(product)
    assert old in text
    with pytest.raises(error, match=message):
        run(product, text.replace(old, new, 1))


def test_each_wait_asks_for_another_fence() -> None:
    product = operands(8, 8, mode=3)
    text, wait = text_of(product), "wgmma.wait_group.sync.aligned 0;"
    (line,) = (line for line in text.splitlines() if "mma_async" in line)
    with pytest.raises(ExecutionFault, match="since the last wait"):
        run(product, text.replace(wait, f"{wait}\n{line}"))


@pytest.mark.parametrize("line", ["wgmma.wait_group.sync.aligned 0;", "wgmma.commit_group.sync.aligned;"])
def test_without_a_wait_registers_hold_poison(line: str) -> None:
    product = operands(8, 16, mode=2)
    found = run(product, text_of(product).replace(line, ""))
    assert (found.view(np.uint32) == 0xDEADBEEF).all()


def test_a_wait_for_all_but_the_last_group_leaves_its_results() -> None:
    product = operands(8, 16, mode=2)
    found = run(product, text_of(product).replace("wait_group.sync.aligned 0", "wait_group.sync.aligned 1"))
    assert (found.view(np.uint32) == 0xDEADBEEF).all()


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (1 << 49, "base offset"),
        (64 >> 4, "first row of its swizzle"),
        (4096 >> 4, "outside all memory"),
    ],
)  # fmt: skip
def test_descriptors_that_lead_elsewhere_are_faults(shift: int, message: str) -> None:
    product = operands(8, 16, mode=2)
    with pytest.raises(PtxError, match=message):
        run(product, text_of(product, shift))


def test_a_wrong_offset_gives_other_numbers() -> None:
    product = operands(8, 16, mode=0)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        # Of the leading byte offset.
        assert_near(product, run(product, text_of(product, -1 << 16)))


def test_without_detection_of_races_fences_are_not_asked_for() -> None:
    product = operands(8, 16, mode=2)
    text = text_of(product).replace("fence.proxy.async.shared::cta;", "")
    assert_near(product, run(product, text, detects_races=False))
