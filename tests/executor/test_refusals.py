"""What the executor does not know is an error: it neither skips nor guesses."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_executor import ExecutionFault, Executor, Module, PtxError, SyntaxFault, Unsupported
from ptx_executor.compiler import DECODERS
from ptx_lines import assembled, compiled, text_of

pytestmark = pytest.mark.quick

# One line and more of each instruction that there is.
KNOWN = """
    add.u32 %r1, %r2, %r3; sub.f32 %r1, %r2, %r3; addc.u32 %r1, %r2, %r3; subc.cc.u32 %r1, %r2, %r3
    mul.lo.u32 %r1, %r2, %r3; mad.lo.u32 %r1, %r2, %r3, %r4; madc.hi.u32 %r1, %r2, %r3, %r4
    fma.rn.f32 %r1, %r2, %r3, %r4; div.rn.f32 %r1, %r2, %r3; rem.s32 %r1, %r2, %r3; ex2.approx.f32 %r1, %r2
    lg2.approx.f32 %r1, %r2; sin.approx.f32 %r1, %r2; cos.approx.f32 %r1, %r2; tanh.approx.f32 %r1, %r2
    rsqrt.approx.f32 %r1, %r2; sqrt.rn.f32 %r1, %r2; rcp.rn.f32 %r1, %r2; min.f32 %r1, %r2, %r3
    max.s32 %r1, %r2, %r3; abs.f32 %r1, %r2; neg.s32 %r1, %r2; copysign.f32 %r1, %r2, %r3; and.b32 %r1, %r2, %r3
    or.b32 %r1, %r2, %r3; xor.b32 %r1, %r2, %r3; not.b32 %r1, %r2; cnot.b32 %r1, %r2; shl.b32 %r1, %r2, 3
    shr.u32 %r1, %r2, %r3; shf.l.wrap.b32 %r1, %r2, %r3, %r4; bfe.u32 %r1, %r2, %r3, %r4
    bfi.b32 %r1, %r2, %r3, %r4, %r5; prmt.b32 %r1, %r2, %r3, %r4; lop3.b32 %r1, %r2, %r3, %r4, 128
    popc.b32 %r1, %r2; clz.b32 %r1, %r2; bfind.u32 %r1, %r2; brev.b32 %r1, %r2; setp.lt.f32 %p1, %r2, %r3
    set.lt.u32.f32 %r1, %r2, %r3
    selp.b32 %r1, %r2, %r3, %p1; testp.finite.f32 %p1, %r2; slct.b32.s32 %r1, %r2, %r3, %r4; mov.b32 %r1, %r2
    cvta.to.global.u64 %d1, %d2; cvt.rn.f32.s32 %r1, %r2; ld.global.b32 %r1, [%d1]; st.global.b32 [%d1], %r1
    atom.global.add.u32 %r1, [%d1], %r2; red.global.add.u32 [%d1], %r2; membar.gl; fence.acq_rel.gpu
    cp.async.ca.shared.global [%r1], [%d1], 4; cp.async.wait_group 0; shfl.sync.idx.b32 %r1, %r2, 1, 31, -1
    vote.sync.any.pred %p1, %p2, -1; redux.sync.add.u32 %r1, %r2, -1; bar.warp.sync -1; bar.sync 0
    activemask.b32 %r1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2]; barrier.sync 0
    stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r2}; wgmma.wait_group.sync.aligned 0
    wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%f0, %f1, %f2, %f3}, %d1, %d2, %p1, 1, 1
    ld.volatile.global.b32 %r1, [%d1]; ld.relaxed.gpu.global.b32 %r1, [%d1]; ld.global.nc.L1::no_allocate.b32 %r1, [%d1]
    ld.global.L1::evict_last.L2::128B.b32 %r1, [%d1]; st.global.L1::evict_first.b32 [%d1], %r1
    st.weak.global.b32 [%d1], %r1; ld.shared::cta.b32 %r1, [%r2]; st.global.cs.b32 [%d1], %r1
    atom.shared.cta.relaxed.exch.b32 %r1, [%r2], %r3
    mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f0,%f1,%f2,%f3},{%f0,%f1,%f2,%f3},{%f4,%f5},{%f0,%f1,%f2,%f3}
"""
# Of those, what the ISA has and the executor has not, or what nobody has.
UNKNOWN = """
    add.rz.f32 %r1, %r2, %r3; add.sat.s32 %r1, %r2, %r3; add.f16x2 %r1, %r2, %r3; sub.bf16 %h1, %h2, %h3
    mad.wide.cc.u32 %d1, %r2, %r3, %d4; mul.u32 %r1, %r2, %r3; mul24.lo.u32 %r1, %r2, %r3
    fma.f32 %r1, %r2, %r3, %r4; fma.rm.f64 %d1, %d2, %d3, %d4; div.rn.sat.f32 %r1, %r2, %r3; div.f32 %r1, %r2, %r3
    min.ftz.f64 %d1, %d2, %d3; add.ftz.f64 %d1, %d2, %d3; min.xorsign.f32 %r1, %r2, %r3; sqrt.rz.f32 %r1, %r2
    rcp.approx.ftz.f64 %d1, %d2; ex2.approx.f16 %h1, %h2; prmt.b32.f4e %r1, %r2, %r3, %r4
    lop3.b32 %r1, %r2, %r3, %r4, %r5; shf.l.b32 %r1, %r2, %r3, %r4; cvt.rz.f32.s32 %r1, %r2; cvt.rz.f32.f64 %r1, %d2
    cvt.f32.s32 %r1, %r2; cvt.s32.f32 %r1, %r2; cvt.rn.s32.u32 %r1, %r2; cvt.rn.bf16.f32 %h1, %r2
    cvt.rn.f16x2.f32 %r1, %r2, %r3; cvt.rn.tf32.f32 %r1, %r2; cvt.u32 %r1, %r2; cvta.param.u64 %d1, %d2
    cvta.shared.u32 %r1, %r2; mov.b32 %r1, %clock; setp.lt.and.f32 %p1, %r2, %r3; setp.f32 %p1, %r2, %r3
    setp.foo.f32 %p1, %r2, %r3; selp.b32 %r1, %r2, %r3; ld.global.v8.b32 {%r1}, [%d1]; ld.global.v2.b32 {%r1}, [%d1]
    ld.global.acquire.b32 %r1, [%d1]; ld.b32 %r1, %d1; ld.global.b32 %r1, [%d1], %d2; st.global.b32 [%d1], %r1, %d2
    ld.global.L2::cache_hint.b32 %r1, [%d1], %d2; st.param.b32 [kernel_p0], %r1; ld.param.b64 %d1, [kernel_p9]
    ld.param.b64 %d1, [kernel_p0+8]; atom.global.v2.f32.add {%r1, %r2}, [%d1], {%r3, %r4}
    atom.global.add.noftz.f16x2 %r1, [%d1], %r2; red.global.add.v4.f32 [%d1], {%r1, %r2, %r3, %r4}
    atom.global.add.f16 %h1, [%d1], %h2; red.global.cas.b32 [%d1], %r2, %r3; atom.global.max.f32 %r1, [%d1], %r2
    atom.global.add.s64 %d1, [%d2], %d3; atom.global.and.u32 %r1, [%d1], %r2; atom.local.add.u32 %r1, [%d1], %r2
    atom.global.u32 %r1, [%d1], %r2; atom.global.cas.b32 %r1, [%d1], %r2; atom.global.add.u32 %r1, [%d1], %r2, %r3
    red.async.add.u32 [%d1], %r2; atom.shared::cluster.add.u32 %r1, [%d1], %r2
    cp.async.ca.shared.global [%r1], [%d1], 6; cp.async.ca.shared.global [%r1], [%d1], %r2
    cp.async.bulk.wait_group 0; cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%d1], [%r1], 16
    cp.async.ca.global.shared [%d1], [%r1], 4; shfl.idx.b32 %r1, %r2, 1, 31; shfl.sync.b32 %r1, %r2, 1, 31, -1
    shfl.sync.idx.b32 %r1, %r2, 1, 31; vote.any.pred %p1, %p2; vote.sync.ballot.pred %p1, %p2, -1
    vote.sync.any.b32 %r1, %p2, -1; vote.sync.pred %p1, %p2, -1; redux.sync.add.f32 %r1, %r2, -1
    redux.sync.add.u64 %d1, %d2, -1; redux.add.u32 %r1, %r2, -1; bar.arrive 0, 32; bar.red.popc.u32 %r1, 0, %p1
    bar.sync 0, 64; @%p1 bar.sync 0; @%p1 bar.warp.sync -1; bar.warp -1
    ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1}, [%r2]; ldmatrix.sync.aligned.m8n8.x1.b16 {%r1}, [%r2]
    mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%f0,%f1,%f2,%f3}, {%f4,%f5}, {%f8}, {%f0,%f1,%f2,%f3}
    call helper; trap; nanosleep.u32 5; createpolicy.fractional.L2::evict_last.b64 %d1; brx.idx %r1, table
    foo.u32 %r1; add.u32 %r1, %r2; add.u32 %r1, %r2, %r3, %r4; add.u32 %r1, %r99, %r3; add.u32 5, %r2, %r3
    add.u32 %r1, %h1, %r3; add.u64 %r1, %r2, %r3; add.f32 %d1, %r2, %r3; add.f32 %r1, %r2, 1
    add.u32 %r1, %r2, 0f3F800000; bra NOWHERE; bra.foo END; ret.foo
"""


def lines_of(table: str) -> list[str]:
    return [one.strip() for line in table.strip().splitlines() for one in line.strip().split("; ")]


def body_of(line: str) -> str:
    return f"{line};\nEND:"


def test_there_is_a_line_of_each_instruction_and_all_are_ptx() -> None:
    lines = lines_of(KNOWN)
    assert {line.split(".")[0].split()[0] for line in lines} == {*DECODERS, "barrier"}
    assert assembled(text_of(body_of(line), name=f"kernel{i}") for i, line in enumerate(lines)) == []


@pytest.mark.parametrize("line", lines_of(KNOWN))
def test_a_modifier_that_nobody_knows_is_refused_wherever_it_stands(line: str) -> None:
    compiled(body_of(line))
    opcode, space, operands = line.partition(" ")
    first, *others = opcode.split(".")
    for at in range(len(others) + 1):
        changed = ".".join([first, *others[:at], "unknown", *others[at:]]) + space + operands
        with pytest.raises(Unsupported, match=rf"PTX line \d+: {first}"):
            compiled(body_of(changed))


@pytest.mark.parametrize("line", lines_of(UNKNOWN))
def test_what_is_not_known_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(PtxError, match=r"PTX line \d+: "):
        compiled(body_of(line))


@pytest.mark.parametrize(
    "text",
    [
        ".visible .entry k() { .reg .b32 %r<2>; mov.u32 %r0, 1 }", ".visible .entry k() { .reg .b32 %r<2>; add.u32",
        ".visible .entry k() { .unknown x; }", ".unknown x;", ".visible .entry k() { .reg .q32 %r<2>; }",
        ".visible .entry k() { mov.u32 %r0, #1; }", ".global .b32 x = y;", ".visible .entry k() .unknown 3 { ret; }",
    ],
)  # fmt: skip
def test_text_that_is_no_ptx_is_refused(text: str) -> None:
    with pytest.raises(SyntaxFault):
        Module(text)


def test_what_stands_between_instructions_changes_nothing() -> None:
    text = """
    .file 1 "folder/source.py"
    .extern .func helper(.param .b32 x);
    .extern .shared .align 16 .b8 dynamic[];
    .pragma "nounroll";
    .global .align 4 .f32 table[2][2] = {{0f3F800000, 0f40000000}, {0f40400000, 0f40800000}};
    .visible .entry kernel(.param .u64 .ptr .global .align 16 out) .maxntid 64 /* over
    two lines */ .reqntid 32 {
    .reg .b32 x, y, z; .reg .b64 place<2>; .reg .pred p; .pragma "x";
    ld.param.u64 place0, [out]; // a comment
    .loc 1 7 3
    mov.u64 place1, table; ld.global.b32 x, [place1 + 8 + 4];
    { .reg .b32 x; mov.b32 x, 5; setp.eq.u32 p, x, 5; @p bra END; mov.b32 x, 6; END: mov.b32 y, x; }
    { END: ; }
    .shared .b32 fixed; st.shared.b32 [dynamic], 7; st.shared.b32 [fixed], 8; ld.shared.b32 z, [dynamic];
    st.global.v2.b32 [place0], {x, y}; st.global.b32 [place0 + 8], z; ret; }
    """
    out = np.zeros(3, np.uint32)
    kernel = Module(text).kernel("kernel")
    buffers = [(out.ctypes.data, out.nbytes, "out")]
    Executor().launch(kernel, (1,), (32,), kernel.packed([out.ctypes.data]), buffers, 16)
    assert out.tolist() == [0x40800000, 5, 7]
    with pytest.raises(ExecutionFault, match=r"PTX line \d+: st\.global\..* \(source\.py:7\)"):
        Executor().launch(kernel, (1,), (32,), kernel.packed([0]), buffers, 16)


def test_a_launch_that_does_not_fit_is_refused() -> None:
    kernel, executor = compiled("", 1), Executor(max_shared=1024)
    given = kernel.packed([0])
    big = compiled("", 1, declared=".shared .b8 shared[2048];")
    sized = Module(".visible .entry kernel() .reqntid 64 { ret; }").kernel()
    for values in ([0, 0], [b"four"]):
        with pytest.raises(ExecutionFault):
            kernel.packed(values)
    launches = [(kernel, 33, given, 0), (kernel, 32, b"", 0), (kernel, 32, given, 64), (big, 32, given, 0)]
    for one, threads, parameters, shared in [*launches, (sized, 32, b"", 0)]:
        with pytest.raises(PtxError):
            executor.launch(one, (1,), (threads,), parameters, [], shared)
