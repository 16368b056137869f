// Freeway of MinAtar. Eight cars, one in each row between the kerbs; a car of speed s moves every abs(s) + 1 steps.
#include "minatar.cuh"

constexpr int NUM_CARS = 8, CHICKEN_X = 4, START_Y = LAST, CHICKEN_INTERVAL = 3, TIME_LIMIT = 2500;

// Give every car a new speed and direction.
__device__ void start_cars(State& state, const Rng& rng, int draw) {
    for (int car = 0; car < NUM_CARS; ++car) {
        const int speed = integers(rng, draw + car, 1, 6);
        state.timer[car] = speed;
        state.speed[car] = integers(rng, draw + NUM_CARS + car, 0, 2) == 0 ? -speed : speed;
    }
}

__device__ State reset(Rng rng, Params params) {
    State state = {};
    start_cars(state, rng, 0);
    state.chicken_y = START_Y;
    state.move_timer = CHICKEN_INTERVAL;
    state.time_left = TIME_LIMIT;
    return state;
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    Outcome outcome = {};
    const int move = sticky(state, action, actions(UP, DOWN), rng, params);
    const int dy = direction(move, UP, DOWN);
    if (dy != 0 && state.move_timer == 0) {
        state.move_timer = CHICKEN_INTERVAL;
        state.chicken_y = moved(state.chicken_y, dy, 0, LAST);
    }
    if (state.chicken_y == 0) {
        outcome.reward = 1.0f;
        start_cars(state, rng, FIRST_DRAW);
        state.chicken_y = START_Y;
    }
    for (int car = 0; car < NUM_CARS; ++car) {
        const int y = car + 1;
        bool hit = state.x[car] == CHICKEN_X && state.chicken_y == y;
        if (state.timer[car] == 0) {
            state.timer[car] = state.speed[car] < 0 ? -state.speed[car] : state.speed[car];
            const int x = state.x[car] + (state.speed[car] > 0 ? 1 : -1);
            state.x[car] = x < 0 ? LAST : x > LAST ? 0 : x;
            hit |= state.x[car] == CHICKEN_X && state.chicken_y == y;
        } else {
            --state.timer[car];
        }
        if (hit) state.chicken_y = START_Y;
    }
    state.move_timer -= state.move_timer > 0;
    --state.time_left;
    outcome.terminated = state.time_left < 0;
    return outcome;
}

__device__ void observe(const State& state, Params params, Observation obs) {
    obs(0, state.chicken_y, CHICKEN_X) = 1;
    for (int car = 0; car < NUM_CARS; ++car) {
        const int y = car + 1, x = state.x[car], speed = state.speed[car];
        const int behind = speed > 0 ? x - 1 : x + 1;
        obs(1, y, x) = 1;
        obs(1 + (speed < 0 ? -speed : speed), y, behind < 0 ? LAST : behind > LAST ? 0 : behind) = 1;
    }
}
