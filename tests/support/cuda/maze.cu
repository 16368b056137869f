// Maze-v0 of tests/support/reporting_envs.py.
constexpr int SIZE = Params::height * Params::width;

__device__ State reset(Rng rng, Params params, Tables tables) {
    State state = {};
    state.place = integers(rng, 0, 0, SIZE);
    ((int8_t*)state.seen)[state.place] = 1;
    return state;
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params, Tables tables) {
    int8_t* const seen = (int8_t*)state.seen;
    state.place = (state.place + action + 1) % SIZE;
    if (tables.walls(state.place / params.width, state.place % params.width) == '.') seen[state.place] = 1;
    int found = 0;
    for (int i = 0; i < SIZE; ++i) found += seen[i] > 0;
    const float worth = tables.worth(found) - params.toll;
    return Outcome{worth, found >= tables.worth.length(), Metrics{(float)found, worth}};
}

__device__ void observe(const State& state, Params params, Tables tables, Observation obs) {
    for (int i = 0; i < SIZE; ++i) {
        obs[i] = ((const int8_t*)state.seen)[i];
        obs[SIZE + i] = tables.worth(((const int8_t*)state.seen)[i]) * params.toll;
    }
}
