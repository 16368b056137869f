// Asterix of MinAtar. Eight rows, each with at most one enemy or treasure, which `kind` tells; 0 is an empty row.
#include "minatar.cuh"

constexpr int NUM_ROWS = 8, ENEMY = 1, TREASURE = 2;
constexpr int FIRST_SPAWN_INTERVAL = 10, FIRST_MOVE_INTERVAL = 5, RAMP_INTERVAL = 100;

__device__ State reset(Rng rng, Params params) {
    State state = {};
    state.player_x = state.player_y = 5;
    state.spawn_interval = state.spawn_timer = FIRST_SPAWN_INTERVAL;
    state.move_interval = state.move_timer = FIRST_MOVE_INTERVAL;
    state.ramp_timer = RAMP_INTERVAL;
    return state;
}

// Put an enemy or, one time in three, a treasure into an empty row.
__device__ void spawn(State& state, const Rng& rng) {
    const bool to_right = integers(rng, FIRST_DRAW, 0, 2) == 0;
    const bool is_treasure = uniform(rng, FIRST_DRAW + 1) < 1.0f / 3.0f;
    int empty = 0;
    for (int row = 0; row < NUM_ROWS; ++row) empty += state.kind[row] == 0;
    if (empty == 0) return;
    int left = integers(rng, FIRST_DRAW + 2, 0, empty);
    for (int row = 0; row < NUM_ROWS; ++row) {
        if (state.kind[row] != 0 || left-- != 0) continue;
        state.x[row] = to_right ? 0 : LAST;
        state.heading[row] = to_right ? 1 : -1;
        state.kind[row] = is_treasure ? TREASURE : ENEMY;
    }
}

// Let the player meet what is in its cell: take a treasure, or lose.
__device__ void meet(State& state, Outcome& outcome) {
    const int row = state.player_y - 1;
    if (state.kind[row] == 0 || state.x[row] != state.player_x) return;
    if (state.kind[row] == TREASURE) {
        state.kind[row] = 0;
        outcome.reward += 1.0f;
    } else {
        outcome.terminated = true;
    }
}

__device__ void ramp(State& state) {
    if (state.spawn_interval <= 1 && state.move_interval <= 1) return;
    if (state.ramp_timer >= 0) {
        --state.ramp_timer;
        return;
    }
    if (state.move_interval > 1 && state.ramp_index % 2 == 1) --state.move_interval;
    if (state.spawn_interval > 1) --state.spawn_interval;
    ++state.ramp_index;
    state.ramp_timer = RAMP_INTERVAL;
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    Outcome outcome = {};
    const int move = sticky(state, action, ALL_ACTIONS, rng, params);
    if (state.spawn_timer == 0) {
        spawn(state, rng);
        state.spawn_timer = state.spawn_interval;
    }
    state.player_x = moved(state.player_x, direction(move, LEFT, RIGHT), 0, LAST);
    state.player_y = moved(state.player_y, direction(move, UP, DOWN), 1, NUM_ROWS);
    meet(state, outcome);
    if (state.move_timer == 0) {
        state.move_timer = state.move_interval;
        for (int row = 0; row < NUM_ROWS; ++row) {
            state.x[row] += state.heading[row];
            if (state.x[row] < 0 || state.x[row] > LAST) state.kind[row] = 0;
        }
        meet(state, outcome);
    }
    --state.spawn_timer;
    --state.move_timer;
    if (params.difficulty_ramping) ramp(state);
    return outcome;
}

__device__ void observe(const State& state, Params params, Observation obs) {
    obs(0, state.player_y, state.player_x) = 1;
    for (int row = 0; row < NUM_ROWS; ++row) {
        if (state.kind[row] == 0) continue;
        const int y = row + 1, x = state.x[row], behind = x - state.heading[row];
        obs(state.kind[row] == TREASURE ? 3 : 1, y, x) = 1;
        if (behind >= 0 && behind <= LAST) obs(2, y, behind) = 1;
    }
}
