// Catch: fruit falls from the trees above a board of 10 by 10 cells, and a basket three cells wide is to catch it.

constexpr int SIZE = 10, BOTTOM = SIZE - 1, MAX_FRUITS = 4;

__device__ State reset(Rng rng, Params params) {
    State state = {};
    for (int i = 0; i < MAX_FRUITS; ++i) state.fruit_y[i] = -1;
    state.basket = integers(rng, 0, 0, SIZE);
    return state;
}

// Let a fruit fall from a random place at the top, if there is one left to fall.
__device__ void drop(State& state, Rng rng) {
    for (int i = 0; i < MAX_FRUITS; ++i) {
        if (state.fruit_y[i] >= 0) continue;
        state.fruit_x[i] = integers(rng, 0, 0, SIZE);
        state.fruit_y[i] = 0;
        return;
    }
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    // 0 stays, 1 goes left, 2 goes right.
    state.basket = min(max(state.basket + (action == 2) - (action == 1), 0), BOTTOM);
    float reward = 0.0f;
    for (int i = 0; i < MAX_FRUITS; ++i) {
        if (state.fruit_y[i] < 0 || ++state.fruit_y[i] < BOTTOM) continue;
        if (abs(state.fruit_x[i] - state.basket) <= 1) reward += 1.0f;
        else ++state.missed;
        state.fruit_y[i] = -1;
    }
    if (state.wait-- == 0) {
        drop(state, rng);
        state.wait = params.interval - 1;
    }
    return Outcome{reward, state.missed > params.lives};
}

__device__ void observe(const State& state, Params params, Observation obs) {
    for (int x = max(state.basket - 1, 0); x <= min(state.basket + 1, BOTTOM); ++x) obs(0, BOTTOM, x) = 1;
    for (int i = 0; i < MAX_FRUITS; ++i) {
        if (state.fruit_y[i] >= 0) obs(1, state.fruit_y[i], state.fruit_x[i]) = 1;
    }
}
