"""Asynchronous copies arrive when they are waited for, not before."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_executor import RaceFault
from ptx_lines import Array, compiled, launched

pytestmark = pytest.mark.quick

POISON = 0x0BADF00D
NUMBERS = np.arange(512, dtype=np.uint32).reshape(64, 8)


def run(wait: str, neighbour: int = 0) -> Array:
    """Return what each thread finds after a wait, in the place of the thread whose number differs by an xor.

    Each copies 16 bytes twice, in two groups.
    """
    found = np.zeros_like(NUMBERS)
    text = f"""
    mad.wide.u32 %d1, %t, 32, %a0; mad.wide.u32 %d2, %t, 32, %a1; shl.b32 %r9, %t, 5;
    xor.b32 %r10, %r9, {32 * neighbour};
    cp.async.ca.shared.global [%r9], [%d1], 16;
    cp.async.commit_group;
    cp.async.ca.shared.global [%r9+16], [%d1+16], 16, 12;
    cp.async.commit_group;
    {wait}
    ld.shared.v4.b32 {{%r1,%r2,%r3,%r4}}, [%r10]; ld.shared.v4.b32 {{%r5,%r6,%r7,%r8}}, [%r10+16];
    st.global.v4.b32 [%d2], {{%r1,%r2,%r3,%r4}}; st.global.v4.b32 [%d2+16], {{%r5,%r6,%r7,%r8}};
    """
    kernel = compiled(text, 2, declared=".shared .align 16 .b8 memory[2048];")
    launched(kernel, NUMBERS, found, block=64, poison=POISON)
    return found


def expected() -> Array:
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
    some = "setp.lt.u32 %p1, %t, 32;\n@%p1 cp.async.wait_all;"
    found = run(some)
    np.testing.assert_array_equal(found[:32], expected()[:32])
    assert (found[32:] == POISON).all()
    np.testing.assert_array_equal(run(f"{some}\ncp.async.wait_all;"), expected())


def test_what_others_copied_needs_a_barrier() -> None:
    with pytest.raises(RaceFault):
        run("cp.async.wait_all;", neighbour=33)
