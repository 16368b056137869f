"""Asynchronous copies arrive when they are waited for, not before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ptx_executor import Executor, Module, RaceFault

pytestmark = pytest.mark.quick

POISON = 0x0BADF00D
# Two copies of 16 bytes a thread, in two groups; each thread reads its own, or what its neighbour copied.
TEXT = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry kernel(.param .u64 given, .param .u64 found) .reqntid 64
{
    .reg .pred %p<4>;
    .reg .b32 %r<16>;
    .reg .b64 %rd<8>;
    .shared .align 16 .b8 memory[2048];
    ld.param.u64 %rd1, [given];
    ld.param.u64 %rd2, [found];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd3, %r0, 32;
    add.u64 %rd1, %rd1, %rd3;
    add.u64 %rd2, %rd2, %rd3;
    shl.b32 %r9, %r0, 5;
    xor.b32 %r10, %r9, 0;
    cp.async.ca.shared.global [%r9], [%rd1], 16;
    cp.async.commit_group;
    cp.async.ca.shared.global [%r9+16], [%rd1+16], 16, 12;
    cp.async.commit_group;
    WAIT
    ld.shared.v4.b32 {%r1,%r2,%r3,%r4}, [%r10];
    ld.shared.v4.b32 {%r5,%r6,%r7,%r8}, [%r10+16];
    st.global.v4.b32 [%rd2], {%r1,%r2,%r3,%r4};
    st.global.v4.b32 [%rd2+16], {%r5,%r6,%r7,%r8};
    ret;
}
"""
NUMBERS = np.arange(512, dtype=np.uint32).reshape(64, 8)


def run(wait: str, neighbour: int = 0) -> np.ndarray[Any, Any]:
    """Return what each thread finds after a wait, in the place of the thread whose number differs by an xor."""
    text = TEXT.replace("WAIT", wait).replace("%r9, 0;", f"%r9, {32 * neighbour};")
    kernel, found = Module(text).kernel(), np.zeros_like(NUMBERS)
    buffers = [(one.ctypes.data, one.nbytes, name) for one, name in ((NUMBERS, "given"), (found, "found"))]
    parameters = kernel.packed([address for address, *_ in buffers])
    Executor(poison=POISON).launch(kernel, (1,), (64,), parameters, buffers)
    return found


def expected() -> np.ndarray[Any, Any]:
    whole = NUMBERS.copy()
    # The second copy takes three words, and fills with zeros.
    whole[:, 7] = 0
    return whole


@pytest.mark.parametrize("wait", ["cp.async.wait_group 0;", "cp.async.wait_all;"])
def test_what_was_waited_for_is_there(wait: str) -> None:
    np.testing.assert_array_equal(run(wait), expected())
    swapped = run(f"{wait}\nbar.sync 0;", neighbour=33)
    np.testing.assert_array_equal(swapped, expected()[np.arange(64) ^ 33])


def test_without_a_wait_there_is_poison() -> None:
    assert (run("") == POISON).all()
    assert (run("bar.sync 0;", neighbour=33) == POISON).all()


def test_the_last_group_may_be_on_its_way() -> None:
    found = run("cp.async.wait_group 1;")
    np.testing.assert_array_equal(found[:, :4], NUMBERS[:, :4])
    assert (found[:, 4:] == POISON).all()


def test_threads_wait_for_their_own_copies_alone() -> None:
    found = run("setp.lt.u32 %p1, %r0, 32;\n@%p1 cp.async.wait_all;")
    np.testing.assert_array_equal(found[:32], expected()[:32])
    assert (found[32:] == POISON).all()


def test_what_others_copied_needs_a_barrier() -> None:
    with pytest.raises(RaceFault):
        run("cp.async.wait_all;", neighbour=33)
