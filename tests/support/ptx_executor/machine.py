"""Runs a compiled kernel over a grid: all threads of some blocks at once, each where its own control flow leads.

Threads stand at basic blocks. Those that stand at the lowest run next, together: so threads that parted meet again
where the text joins them. A barrier holds threads until all of their block are there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ptx_executor import loads, scalar, warps  # noqa: F401  (they register what they compile)
from ptx_executor.approximations import Approximations
from ptx_executor.compiler import WARP, Barrier, Block, Branch, Exit, Program
from ptx_executor.errors import ExecutionFault, RaceFault
from ptx_executor.groups import Copies
from ptx_executor.memory import SEVERAL, SPACE_OF_WINDOW, WINDOW_BITS, Access, BankedMemory, GlobalMemory, fault
from ptx_executor.syntax import Place
from ptx_executor.types import Array, Type
from ptx_executor.warpgroups import Products

Grid = tuple[int, int, int]


class State:
    """What the threads of some blocks have: registers, shared and local memory, and where they stand."""

    def __init__(self, program: Program, grid: Grid, block: Grid, numbers: range, options: Options) -> None:
        self.program, self.grid, self.block, self.options = program, grid, block, options
        self.threads_each = math.prod(block)
        self.blocks = np.arange(numbers.start, numbers.stop, dtype=np.int64)
        self.num_threads = self.threads_each * len(self.blocks)
        self.block_of = np.repeat(np.arange(len(self.blocks), dtype=np.int32), self.threads_each)
        self.parameters = options.parameters
        self.approximations = options.approximations
        # None while no thread has ended.
        self.alive: Array | None = None
        self.carry = np.zeros(self.num_threads, bool)
        count = self.num_threads
        self.constants = [np.full(count, value, kind.bits).view(kind.dtype) for value, kind in program.constants]
        self.registers = [
            np.full(count, options.poison & ((1 << kind.width) - 1), kind.bits) for kind in program.register_types
        ]
        self._set_special()
        shared_bytes = program.shared_bytes + options.dynamic_shared
        self.shared = BankedMemory(len(self.blocks), shared_bytes, options.detects_races)
        self.local = BankedMemory(count, program.local_bytes, False)
        self._parameters = BankedMemory(1, len(options.parameters), False)
        self._parameters.fill(options.parameters)
        self.copies = Copies(count, options.poison)
        self.products = Products(count, options.poison)
        self.epochs = np.zeros(count, np.int32)
        in_block = np.tile(np.arange(self.threads_each), len(self.blocks))
        per_block = self.threads_each if options.strict_warps else -(-self.threads_each // WARP)
        own = in_block if options.strict_warps else in_block // WARP
        self._agents = (np.repeat(self.blocks, self.threads_each) * per_block + own).astype(np.int32)
        self._flat_blocks = np.repeat(self.blocks, self.threads_each).astype(np.int32)
        self._every = Access(self._agents, self._flat_blocks, self.epochs)

    def _set_special(self) -> None:
        in_block = np.tile(np.arange(self.threads_each), len(self.blocks))
        block = np.repeat(self.blocks, self.threads_each)
        lane = in_block % WARP
        values: dict[str, Any] = {"%laneid": lane, "%warpid": in_block // WARP}
        for axis, name in enumerate("xyz"):
            inner, outer = math.prod(self.block[:axis]), math.prod(self.grid[:axis])
            values[f"%tid.{name}"] = in_block // inner % self.block[axis]
            values[f"%ctaid.{name}"] = block // outer % self.grid[axis]
            values[f"%ntid.{name}"] = np.full(self.num_threads, self.block[axis])
            values[f"%nctaid.{name}"] = np.full(self.num_threads, self.grid[axis])
        below = (1 << lane) - 1
        equal = 1 << lane
        values |= {"%lanemask_eq": equal, "%lanemask_lt": below, "%lanemask_le": below | equal}
        values |= {"%lanemask_ge": ~below & 0xFFFFFFFF, "%lanemask_gt": ~(below | equal) & 0xFFFFFFFF}
        for name, index in self.program.special.items():
            self.registers[index] = values[name].astype(np.uint32)

    # What operations ask for.

    def present(self, mask: Array | None) -> Array:
        """Return the threads that execute."""
        if mask is not None:
            return mask
        return np.ones(self.num_threads, bool) if self.alive is None else self.alive

    def set_carry(self, value: Array, mask: Array | None) -> None:
        self.carry = value if mask is None else np.where(mask, value, self.carry)

    def accessing(self, mask: Array | None, at: Array) -> tuple[Array | None, Array, Access]:
        """Return the threads that access memory, None for all, their addresses, and who they are."""
        mask = self.alive if mask is None else mask
        if mask is None:
            return None, at, self._every
        active = np.flatnonzero(mask)
        return active, at[active], Access(*(x[active] for x in self._every))

    def access_together(self, threads: Array) -> Access:
        """Return who accesses memory for whole warpgroups, of each of which a thread is given."""
        agents = np.full(len(threads), SEVERAL, np.int32)
        return Access(agents, *(x[threads] for x in self._every[1:]))

    def spread(self, values: Array, active: Array | None) -> Array:
        if active is None:
            return values
        whole = np.zeros(self.num_threads, values.dtype)
        whole[active] = values
        return whole

    def load(self, space: str, at: Array, kind: Type, active: Array | None, access: Access, place: Place) -> Array:
        return self.spread(self.load_active(space, at, kind, active, access, place), active)

    def load_active(self, space: str, at: Array, kind: Type, active: Any, access: Access, place: Place) -> Array:
        report = self._reporter(space, active, place)
        if space == "generic":
            values = np.empty(len(at), kind.dtype)
            for part, inner, there, threads, agents in self._by_space(at, active, access):
                values[part] = self.load_active(inner, there, kind, threads, agents, place)
            return values
        if space == "global":
            return self.options.memory.load(at, kind.dtype, access, report)
        if space == "shared":
            return self.shared.load(self._owners(active), at, kind.dtype, access, report)
        if space == "param":
            return self._parameters.load(np.zeros(len(at), np.int64), at, kind.dtype, access, report)
        return self.local.load(self._selves(active), at, kind.dtype, access, report)

    def store(self, space: str, at: Array, values: Array, active: Any, access: Access, place: Place) -> None:
        report = self._reporter(space, active, place)
        if space == "generic":
            for part, inner, there, threads, agents in self._by_space(at, active, access):
                self.store(inner, there, values[part], threads, agents, place)
        elif space == "global":
            self.options.memory.store(at, values, access, report)
        elif space == "shared":
            self.shared.store(self._owners(active), at, values, access, report)
        else:
            self.local.store(self._selves(active), at, values, access, report)

    def atomic(
        self, space: str, at: Array, kind: Type, given: Array, expected: Array | None, change: Any, active: Any,
        access: Access, place: Place,
    ) -> Array:  # fmt: skip
        """Change memory thread by thread, in any order if that of warps is random; return what each found."""
        found, schedule = np.empty(len(at), kind.dtype), self.options.schedule
        if space == "generic":
            for part, inner, there, threads, agents in self._by_space(at, active, access):
                wanted = None if expected is None else expected[part]
                found[part] = self.atomic(inner, there, kind, given[part], wanted, change, threads, agents, place)
            return found
        report = self._reporter(space, active, place)
        if space == "global":
            memory, index = self.options.memory.atomic(at, kind.dtype, access, report)
        elif space == "shared":
            memory, index = self.shared.atomic(self._owners(active), at, kind.dtype, access, report)
        else:
            raise ExecutionFault(f"an atomic of {space} memory: {place}")
        for i in range(len(at)) if schedule is None else schedule.permutation(len(at)):
            found[i : i + 1] = old = memory[index[i : i + 1]]
            if expected is None:
                memory[index[i]] = change(space, old, given[i : i + 1])[0]
            elif old[0] == expected[i]:
                memory[index[i]] = given[i]
        return found

    def _by_space(self, at: Array, active: Array | None, access: Access) -> Iterator[Any]:
        """Return, of generic addresses, which lie in a space, its name, and addresses, threads and agents there."""
        windows = at >> WINDOW_BITS
        if not windows.any():
            yield slice(None), "global", at, active, access
            return
        for window in np.unique(windows):
            here = windows == window
            # What lies in no window is an address of global memory, where nothing is.
            space = SPACE_OF_WINDOW.get(int(window), "global")
            inside = at[here] if space == "global" else at[here] - (window << WINDOW_BITS)
            yield here, space, inside, self._selves(active)[here], Access(*(x[here] for x in access))

    def _owners(self, active: Array | None) -> Array:
        return self.block_of if active is None else self.block_of[active]

    def _selves(self, active: Array | None) -> Array:
        return np.arange(self.num_threads) if active is None else active

    def check_vector(self, space: str, at: Array, size: int, active: Array | None, place: Place) -> None:
        wrong = at % np.uint64(size) != 0
        if wrong.any():
            self._reporter(space, active, place)("misaligned", at, wrong, None)

    def _reporter(self, space: str, active: Array | None, place: Place) -> Callable[..., None]:
        def report(kind: str, at: Array, which: Array, _: Any) -> None:
            first = int(np.flatnonzero(which)[0])
            thread = self.name_of(first if active is None else int(active[first]))
            address = int(at[first])
            if kind == "race":
                self.options.report_race(f"{thread} at address {self._described(space, address)}: {place}")
                return
            raise fault(kind, place, thread, self._described(space, address))

        return report

    def _described(self, space: str, address: int) -> str:
        banks = {"shared": self.shared, "local": self.local, "param": self._parameters}
        if space in banks:
            return f"{address:#x} of {banks[space].size} {space} bytes"
        return f"{address:#x}, {self.options.memory.describe(address)}"

    def name_of(self, thread: int) -> str:
        return f"thread {thread % self.threads_each} of block {int(self.blocks[thread // self.threads_each])}"

    # Warps.

    def by_warp(self, values: Array) -> Array:
        """Return one row a warp."""
        return values.reshape(-1, WARP)

    def by_thread(self, values: Array) -> Array:
        return np.ascontiguousarray(values).reshape(-1)

    def check_members(self, mask: Array | None, members: Array, place: Place) -> Array:
        """Return who executes, one row a warp, once all whom the masks name are known to do so."""
        present = self.by_warp(self.present(mask))
        named = (self.by_warp(members) >> np.arange(WARP, dtype=np.uint32) & np.uint32(1)).astype(bool)
        # Lane i of the row: each executing thread names itself and only executing ones; all name the same.
        words = np.where(present, self.by_warp(members), 0).max(1)
        same = (self.by_warp(members) == words[:, None]) | ~present
        wrong = (present & ~named) | ~same
        named_by_warp = (words[:, None] >> np.arange(WARP, dtype=np.uint32) & np.uint32(1)).astype(bool)
        missing = named_by_warp & ~present & present.any(1)[:, None]
        if wrong.any() or missing.any():
            first = int(np.flatnonzero((wrong | missing).reshape(-1))[0])
            raise ExecutionFault(
                f"{self.name_of(first)} is named by a mask and not there, or there and not named: {place}"
            )
        return present

    def check_sources(self, present: Array, lanes: Array, place: Place) -> None:
        wrong = present & ~np.take_along_axis(present, lanes, 1)
        if wrong.any():
            first = int(np.flatnonzero(wrong.reshape(-1))[0])
            raise ExecutionFault(f"{self.name_of(first)} reads a lane that does not execute: {place}")

    def check_whole_warps(self, mask: Array | None, place: Place) -> None:
        if mask is None and self.alive is None:
            return
        present = self.by_warp(self.present(mask))
        partial = present.any(1) & ~present.all(1)
        if partial.any():
            first = int(np.flatnonzero(partial)[0]) * WARP
            raise ExecutionFault(f"only some of the warp of {self.name_of(first)} execute: {place}")


class Options:
    """What a launch is given beside its grid."""

    def __init__(
        self,
        memory: GlobalMemory,
        parameters: bytes,
        dynamic_shared: int,
        approximations: Approximations,
        detects_races: bool,
        strict_warps: bool,
        poison: int,
        on_race: Callable[[str], None] | None,
        counts: Counter[str] | None,
        schedule: np.random.Generator | None,
    ) -> None:
        self.memory, self.parameters, self.dynamic_shared = memory, parameters, dynamic_shared
        self.approximations, self.detects_races, self.strict_warps = approximations, detects_races, strict_warps
        self.poison, self._on_race, self.counts, self.schedule = poison, on_race, counts, schedule

    def report_race(self, message: str) -> None:
        if self._on_race is None:
            raise RaceFault(message)
        self._on_race(message)


def launch(program: Program, grid: Grid, block: Grid, options: Options, threads_at_once: int = 8192) -> None:
    """Run all blocks of a grid, as many at once as have so many threads."""
    threads = math.prod(block)
    if program.block_size is not None and threads != math.prod(program.block_size):
        raise ExecutionFault(f"{program.name} is for blocks of {program.block_size} threads, not {block}")
    if threads % WARP:
        raise ExecutionFault(f"blocks of {threads} threads: whole warps only")
    if width := next((block.width for block in program.blocks if threads % block.width), 0):
        raise ExecutionFault(f"blocks of {threads} threads: whole groups of {width} only")
    if len(options.parameters) != program.parameter_bytes:
        raise ExecutionFault(f"{program.name} takes {program.parameter_bytes} bytes, not {len(options.parameters)}")
    options.memory.begin_launch()
    total, at_once = math.prod(grid), max(1, threads_at_once // threads)
    with np.errstate(all="ignore"):
        for first in range(0, total, at_once):
            _Run(State(program, grid, block, range(first, min(total, first + at_once)), options)).run()


class _Run:
    """Moves the threads of a state from block to block of the text."""

    def __init__(self, state: State) -> None:
        self._state, self._program = state, state.program
        self._at = np.zeros(state.num_threads, np.int32)
        self._waiting = np.zeros(state.num_threads, bool)
        self._barrier = np.full(state.num_threads, -1, np.int64)
        # The one block of the text where all threads stand that have not ended, if there is one.
        self._common: int | None = 0 if state.options.schedule is None else None
        # Of a random schedule: the threads whose turn it is, until none of them can go on.
        self._turn: Array | None = None

    def run(self) -> None:
        state, blocks = self._state, self._program.blocks
        while True:
            mask: Array | None = None
            if self._common is not None:
                number = self._common
            else:
                runnable = ~self._waiting if state.alive is None else state.alive & ~self._waiting
                if not runnable.any():
                    if self._waiting.any():
                        raise ExecutionFault(
                            f"threads wait at barriers that others never reach: {self._describe_waiting()}"
                        )
                    return
                number, mask = self._next(runnable)
                if state.options.schedule is None and np.array_equal(mask, state.present(None)):
                    self._common, mask = number, None
            block = blocks[number]
            for operation, place in block.operations:
                try:
                    operation(state, mask)
                except (ValueError, TypeError, IndexError) as error:  # noqa: PERF203
                    raise ExecutionFault(f"{error!r}: {place}") from error
            if state.options.counts is not None:
                executed = int(state.present(mask).sum())
                state.options.counts["instructions"] += len(block.operations) * executed
                state.options.counts["blocks"] += 1
            self._leave(number, block.end, mask)
            if state.alive is not None and not state.alive.any():
                return

    def _next(self, runnable: Array) -> tuple[int, Array]:
        """Return the lowest block where threads can go on, and those threads: some wait for others."""
        for candidates in self._turns(runnable):
            while candidates.any():
                number = int(self._at[candidates].min())
                standing = self._at == number
                here = candidates & standing
                block = self._program.blocks[number]
                together = here if block.width == 1 else self._together(here, runnable & standing, block)
                if together.any():
                    return number, together
                candidates = candidates & ~here
        thread = int(np.flatnonzero(runnable)[0])
        place = self._program.blocks[self._at[thread]].place
        raise ExecutionFault(f"{self._state.name_of(thread)} waits for lanes that never come: {place}")

    def _together(self, here: Array, standing: Array, block: Block) -> Array:
        """Return the groups of threads with some here of which nobody is missing whom these wait for."""
        state = self._state
        missing = state.present(None) & ~standing
        if block.members is not None:
            words = np.where(state.by_warp(standing), state.by_warp(block.members(state)), 0).max(1)
            named = words[:, None] >> np.arange(WARP, dtype=np.uint32) & np.uint32(1)
            missing &= state.by_thread(named.astype(bool))
        groups = here.reshape(-1, block.width).any(1) & ~missing.reshape(-1, block.width).any(1)
        return standing & np.repeat(groups, block.width)

    def _turns(self, runnable: Array) -> Iterator[Array]:
        """Give all threads, or, of a random schedule, those whose turn it is and then, if these cannot go on, others.

        A turn is that of one half of the warps, drawn anew when the last half can go no further.
        """
        schedule = self._state.options.schedule
        if schedule is None:
            yield runnable
            return
        if self._turn is None or not (runnable & self._turn).any():
            half = schedule.random(self._state.num_threads // WARP) < 0.5
            self._turn = np.repeat(half, WARP)
        yield runnable & self._turn
        self._turn = ~self._turn
        yield runnable & self._turn

    def _leave(self, number: int, end: Any, mask: Array | None) -> None:
        state = self._state
        if end is None:
            self._move(mask, number + 1)
        elif isinstance(end, Branch):
            if end.guard is None:
                self._move(mask, end.target)
                return
            taken = end.guard(state)
            here = state.present(mask)
            goes, stays = here & taken, here & ~taken
            if not goes.any():
                self._move(mask, number + 1)
            elif not stays.any():
                self._move(mask, end.target)
            else:
                self._part()
                self._at = np.where(goes, end.target, np.where(stays, number + 1, self._at)).astype(np.int32)
        elif isinstance(end, Exit):
            here = state.present(mask)
            ends = here if end.guard is None else here & end.guard(state)
            self._move(mask, number + 1)
            if ends.any():
                self._part()
                state.alive = (np.ones(state.num_threads, bool) if state.alive is None else state.alive) & ~ends
                self._release()
        elif isinstance(end, Barrier):
            self._arrive(number, end, mask)

    def _part(self) -> None:
        if self._common is not None:
            self._at[:] = self._common
            self._common = None

    def _move(self, mask: Array | None, target: int) -> None:
        if self._common is not None and mask is None:
            self._common = target
        else:
            self._at = np.where(self._state.present(mask), target, self._at).astype(np.int32)

    def _arrive(self, number: int, end: Barrier, mask: Array | None) -> None:
        state = self._state
        identifiers = end.identifier(state)
        here = state.present(mask)
        alive = state.present(None)
        # All threads of a warp arrive together: `bar.sync` is aligned.
        by_warp, living = state.by_warp(here), state.by_warp(alive)
        partial = by_warp.any(1) & (by_warp != living).any(1)
        if partial.any():
            first = int(np.flatnonzero(partial)[0]) * WARP
            raise ExecutionFault(f"only some of the warp of {state.name_of(first)} reach {end.place}")
        if self._common is not None and (identifiers == identifiers[0]).all():
            state.epochs += 1
            self._common = number + 1
            return
        self._part()
        self._at = np.where(here, number + 1, self._at).astype(np.int32)
        self._waiting |= here
        self._barrier = np.where(here, identifiers, self._barrier)
        self._release()

    def _release(self) -> None:
        """Let go the threads of blocks all of whose threads wait at one barrier."""
        state = self._state
        if not self._waiting.any():
            return
        alive = state.present(None).reshape(len(state.blocks), -1)
        waiting = self._waiting.reshape(alive.shape) & alive
        whole = (waiting == alive).all(1) & alive.any(1)
        barrier = self._barrier.reshape(alive.shape)
        low = np.where(alive, barrier, np.iinfo(np.int64).max).min(1)
        high = np.where(alive, barrier, -1).max(1)
        whole &= low == high
        if whole.any():
            chosen = np.repeat(whole, state.threads_each)
            self._waiting &= ~chosen
            state.epochs[chosen] += 1

    def _describe_waiting(self) -> str:
        state = self._state
        first = int(np.flatnonzero(self._waiting)[0])
        # Who waits stands behind the barrier already.
        return f"{state.name_of(first)} at {self._program.blocks[self._at[first] - 1].end.place}"
