"""2048: slide the tiles of a 4 by 4 board; two equal tiles that meet become one tile of their sum.

After each move a random free cell gets a 2, or in one of ten cases a 4.

Observation: Each plane has 4 by 4 cells.
    0 to 14: 1 where a tile of 2, 4, 8, ... 32768 lies; plane 0 is for tiles of 2
Action: A move that changes nothing is illegal, does nothing, and is 0 in the action mask.
    0: slide all tiles up
    1: slide all tiles down
    2: slide all tiles to the left
    3: slide all tiles to the right
Start: The board has two tiles in random cells. Each is a 2, or in one of ten cases a 4.
Reward: The sum of the new tiles that two others became. Two tiles of 32768 do not become one.
End: No move is legal.
"""

from __future__ import annotations

from typing import NamedTuple

from gymnasium import spaces

from operant_gpu.arrays import cells, cells_of, count, nth, put
from operant_gpu.environment import Environment
from operant_gpu.envs.drawing import draw_2048
from operant_gpu.lang import Array, jit, tl
from operant_gpu.random import integers, uniform


class State(NamedTuple):
    # 0 for an empty cell, k for the tile 2**k.
    board: Array(tl.int8, (4, 4))


@jit
def _tile(rng, i: tl.constexpr):
    return tl.where(uniform(rng, i) < 0.9, 1, 2)


@jit
def _with_tile(board, rng, i: tl.constexpr):
    free = board == 0
    cell = nth(free, integers(rng, i, 0, tl.maximum(count(free), 1)))
    return put(board, cell, _tile(rng, i + 1))


@jit
def reset(rng, params):
    first = integers(rng, 0, 0, 16)
    board = tl.where(cells(16) == first[:, None], _tile(rng, 1)[:, None], 0)
    return State(_with_tile(board, rng, 2))


# A board as one number: four bits a cell, cell 0 lowest. A line's four places are then 16 bits, and `_PLACE` selects
# one place of all lines at once.
_PLACE = tl.constexpr(0x000F000F000F000F)
_ONES = tl.constexpr(0x0001000100010001)


@jit
def _packed(board):
    return tl.sum(board.to(tl.int64) << (4 * cells_of(board)), 1)


@jit
def _unpacked(number):
    return ((number[:, None] >> (4 * cells(16))) & 15).to(tl.int32)


@jit
def _transposed(x):
    """Swap lines and places: first inside each quarter of the board, then the quarters."""
    swap = (x ^ (x >> 12)) & 0x0000F0F00000F0F0
    x = x ^ swap ^ (swap << 12)
    swap = (x ^ (x >> 24)) & 0x00000000FF00FF00
    return x ^ swap ^ (swap << 24)


@jit
def _mirrored(x):
    """Turn the places of each line about: first those of each pair, then the pairs."""
    x = ((x >> 4) & 0x0F0F0F0F0F0F0F0F) | ((x & 0x0F0F0F0F0F0F0F0F) << 4)
    return ((x >> 8) & 0x00FF00FF00FF00FF) | ((x & 0x00FF00FF00FF00FF) << 8)


@jit
def _places(x):
    return x & _PLACE, (x >> 4) & _PLACE, (x >> 8) & _PLACE, (x >> 12) & _PLACE


@jit
def _joined(a, b, c, d):
    return a | (b << 4) | (c << 8) | (d << 12)


@jit
def _is_tile(place):
    """Return 1 in each line where the place is not empty."""
    return ((place + _PLACE) >> 4) & _ONES


@jit
def _are_alike(near, far):
    """Return 1 in each line where both places have the same tile, and not the highest."""
    return _is_tile(near) & _is_tile(near ^ _PLACE) & ~_is_tile(near ^ far)


@jit
def _closed_up(near, far):
    """Move what is at the far place to the near one where that is empty."""
    stays = _is_tile(near) * 15
    return near | (far & ~stays), far & stays


@jit
def _gathered(a, b, c, d):
    a, b = _closed_up(a, b)
    b, c = _closed_up(b, c)
    c, d = _closed_up(c, d)
    a, b = _closed_up(a, b)
    b, c = _closed_up(b, c)
    a, b = _closed_up(a, b)
    return a, b, c, d


@jit
def _merged(near, far):
    """Make one tile of two alike; return both places, and the new tiles alone."""
    alike = _are_alike(near, far)
    near += alike
    return near, far & ~(alike * 15), near & (alike * 15)


@jit
def _slid(x):
    """Slide every line toward its first place; return the board, and the tiles that came of two."""
    a, b, c, d = _places(x)
    a, b, c, d = _gathered(a, b, c, d)
    a, b, first = _merged(a, b)
    b, c, second = _merged(b, c)
    c, d, third = _merged(c, d)
    a, b, c, d = _gathered(a, b, c, d)
    return _joined(a, b, c, d), _joined(first, second, third, first * 0)


@jit
def _can_move(near, far):
    """Return 1 in each line where the far tile can move to the near place."""
    return _is_tile(far) & (~_is_tile(near) | _are_alike(near, far))


@jit
def _legal_pair(x):
    """Return whether a move to the first places changes anything, and one to the last."""
    a, b, c, d = _places(x)
    first = _can_move(a, b) | _can_move(b, c) | _can_move(c, d)
    last = _can_move(d, c) | _can_move(c, b) | _can_move(b, a)
    return first != 0, last != 0


@jit
def _legal(x):
    """Return for each action whether it changes anything."""
    up, down = _legal_pair(_transposed(x))
    left, right = _legal_pair(x)
    return up, down, left, right


@jit
def step(state, action, rng, params):
    board = _packed(state.board)
    upright, backward = action < 2, (action == 1) | (action == 3)
    lines = tl.where(upright, _transposed(board), board)
    lines, gained = _slid(tl.where(backward, _mirrored(lines), lines))
    lines = tl.where(backward, _mirrored(lines), lines)
    lines = tl.where(upright, _transposed(lines), lines)
    moved = lines != board
    after = tl.where(moved[:, None], _with_tile(_unpacked(lines), rng, 0), state.board)
    powers = _unpacked(gained)
    score = tl.sum(tl.where(powers > 0, (powers * 0 + 1) << powers, 0), 1)
    up, down, left, right = _legal(_packed(after))
    return State(after), score.to(tl.float32), ~(up | down | left | right)


@jit
def action_mask(state, params):
    return _legal(_packed(state.board))


@jit
def observe(state, params):
    planes = ()
    for power in tl.static_range(1, 16):
        planes += (state.board == power,)
    return planes


Game2048 = Environment(
    id="Game2048-v0",
    state=State,
    reset=reset,
    step=step,
    observe=observe,
    action_mask=action_mask,
    observation_space=spaces.MultiBinary((15, 4, 4)),
    action_space=spaces.Discrete(4),
    draw=draw_2048,
    keys={"up": 0, "down": 1, "left": 2, "right": 3},
)
