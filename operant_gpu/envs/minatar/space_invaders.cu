// SpaceInvaders of MinAtar. Aliens and bullets are rows of ten bits, bit x of row y being the cell (x, y).
#include "minatar.cuh"

constexpr int ROW = (1 << SIZE) - 1, CANNON_Y = LAST;
constexpr int SHOT_COOL_DOWN = 5, SHOT_INTERVAL = 10, FIRST_MOVE_INTERVAL = 12, LAST_MOVE_INTERVAL = 6;

__device__ void place_aliens(State& state) {
    for (int y = 0; y < 4; ++y) state.aliens[y] = 0b0011111100;
}

__device__ State reset(Rng rng, Params params) {
    State state = {};
    state.cannon_x = 5;
    place_aliens(state);
    state.heading = -1;
    state.move_interval = state.move_timer = FIRST_MOVE_INTERVAL;
    state.shot_timer = SHOT_INTERVAL;
    return state;
}

__device__ int count(const State& state) {
    int found = 0;
    for (int y = 0; y < SIZE; ++y) found += __popc(state.aliens[y]);
    return found;
}

__device__ void move_bullets(State& state) {
    for (int y = 0; y < LAST; ++y) state.bullets[y] = state.bullets[y + 1];
    state.bullets[LAST] = 0;
    for (int y = LAST; y > 0; --y) state.alien_bullets[y] = state.alien_bullets[y - 1];
    state.alien_bullets[0] = 0;
}

// Move the aliens sideways, or down and about where they reach a side. Return whether they have landed.
__device__ bool move_aliens(State& state) {
    int columns = 0;
    for (int y = 0; y < SIZE; ++y) columns |= state.aliens[y];
    const bool at_side = state.heading < 0 ? columns & 1 : columns >> LAST & 1;
    if (!at_side) {
        for (int y = 0; y < SIZE; ++y) {
            const int row = state.aliens[y];
            state.aliens[y] = state.heading < 0 ? row >> 1 : row << 1 & ROW;
        }
        return false;
    }
    state.heading = -state.heading;
    const int lowest = state.aliens[LAST];
    for (int y = LAST; y > 0; --y) state.aliens[y] = state.aliens[y - 1];
    state.aliens[0] = lowest;
    return lowest != 0;
}

// Let the lowest alien of the column nearest to the cannon shoot, of two as near the left one.
__device__ void shoot(State& state) {
    int columns = 0;
    for (int y = 0; y < SIZE; ++y) columns |= state.aliens[y];
    int nearest = -1;
    for (int distance = LAST; distance >= 0; --distance) {
        const int left = state.cannon_x - distance, right = state.cannon_x + distance;
        if (right <= LAST && columns >> right & 1) nearest = right;
        if (left >= 0 && columns >> left & 1) nearest = left;
    }
    for (int y = LAST; y >= 0 && nearest >= 0; --y) {
        if (!(state.aliens[y] >> nearest & 1)) continue;
        state.alien_bullets[y] |= 1 << nearest;
        return;
    }
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    Outcome outcome = {};
    const int move = sticky(state, action, actions(LEFT, RIGHT, FIRE), rng, params);
    if (move == FIRE && state.cool_down == 0) {
        state.bullets[CANNON_Y] |= 1 << state.cannon_x;
        state.cool_down = SHOT_COOL_DOWN;
    }
    state.cannon_x = moved(state.cannon_x, direction(move, LEFT, RIGHT), 0, LAST);

    move_bullets(state);
    bool lost = (state.alien_bullets[CANNON_Y] | state.aliens[CANNON_Y]) >> state.cannon_x & 1;
    if (state.move_timer == 0) {
        state.move_timer = min(count(state), state.move_interval);
        lost |= move_aliens(state);
        lost |= state.aliens[CANNON_Y] >> state.cannon_x & 1;
    }
    if (state.shot_timer == 0) {
        state.shot_timer = SHOT_INTERVAL;
        shoot(state);
    }
    for (int y = 0; y < SIZE; ++y) {
        const int hit = state.aliens[y] & state.bullets[y];
        state.aliens[y] &= ~hit;
        state.bullets[y] &= ~hit;
        outcome.reward += __popc(hit);
    }
    state.cool_down -= state.cool_down > 0;
    --state.move_timer;
    --state.shot_timer;
    if (count(state) == 0) {
        if (state.move_interval > LAST_MOVE_INTERVAL && params.difficulty_ramping) --state.move_interval;
        place_aliens(state);
    }
    outcome.terminated = lost;
    return outcome;
}

__device__ void observe(const State& state, Params params, Observation obs) {
    obs(0, CANNON_Y, state.cannon_x) = 1;
    const int heading = state.heading < 0 ? 2 : 3;
    for (int y = 0; y < SIZE; ++y) {
        show_row(obs, 1, y, state.aliens[y]);
        show_row(obs, heading, y, state.aliens[y]);
        show_row(obs, 4, y, state.bullets[y]);
        show_row(obs, 5, y, state.alien_bullets[y]);
    }
}
