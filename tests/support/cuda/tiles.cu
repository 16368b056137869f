// Tiles-v0 of tests/support/varied_envs.py.
__device__ State reset(Rng rng, Params params) {
    State state = {};
    state.place = integers(rng, 0, 0, 6);
    ((float*)state.heights)[state.place] = params.growth;
    return state;
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    float* const heights = (float*)state.heights;
    state.place = (state.place + action + integers(rng, 0, 0, 2)) % 6;
    heights[state.place] += params.growth * params.weight;
    int filled = 0;
    for (int i = 0; i < 6; ++i) {
        if (params.leaks) heights[i] *= 0.75f;
        filled += heights[i] >= 1.0f;
    }
    return Outcome{filled * params.weight, filled >= params.level};
}

__device__ void observe(const State& state, Params params, Observation obs) {
    for (int i = 0; i < 6; ++i) {
        obs[i] = ((const float*)state.heights)[i];
        obs[6 + i] = ((const float*)state.heights)[i] * params.weight;
    }
}
