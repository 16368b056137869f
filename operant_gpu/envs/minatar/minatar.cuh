// What the MinAtar games share: a board of 10 by 10 cells, x to the right and y down, and six actions.
#pragma once

constexpr int SIZE = 10, LAST = SIZE - 1;
constexpr int NOTHING = 0, LEFT = 1, UP = 2, RIGHT = 3, DOWN = 4, FIRE = 5;

// Where draws of a step come from, the first being that of sticky actions.
constexpr int STICKY_DRAW = 0, FIRST_DRAW = 1;

// Return the action that takes effect: with a small probability the last one again. `minimal` maps a game's own actions
// to those of all games, three bits each.
__device__ __forceinline__ int sticky(State& state, int action, unsigned int minimal, const Rng& rng, Params params) {
    action = params.minimal_actions ? minimal >> 3 * action & 7 : action;
    const bool repeats = uniform(rng, STICKY_DRAW) < params.sticky_action_prob;
    state.last_action = repeats ? state.last_action : action;
    return state.last_action;
}

constexpr unsigned int ALL_ACTIONS = LEFT << 3 | UP << 6 | RIGHT << 9 | DOWN << 12 | FIRE << 15;

// Return the `minimal` of `sticky` for up to four actions that differ from nothing.
__device__ constexpr unsigned int actions(int a, int b, int c = 0, int d = 0) { return a << 3 | b << 6 | c << 9 | d << 12; }

__device__ __forceinline__ int moved(int position, int step, int low, int high) {
    return min(max(position + step, low), high);
}

// Return -1, 0 or 1: the direction along an axis that an action names.
__device__ __forceinline__ int direction(int action, int negative, int positive) {
    return (action == positive) - (action == negative);
}

// Show a row of bits, bit x being the cell (x, y).
__device__ __forceinline__ void show_row(Observation obs, int channel, int y, int bits) {
    for (; bits; bits &= bits - 1) obs(channel, y, __ffs(bits) - 1) = 1;
}
