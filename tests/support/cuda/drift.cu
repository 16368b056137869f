// Drift-v0 of tests/support/contract_envs.py.
__device__ State reset(Rng rng, Params params) {
    State state = {};
    state.x = uniform(rng, 0, -0.5f, 0.5f);
    state.y = 0.25f * normal(rng, 0);
    state.hops = 1;
    state.lucky = integers(rng, 2, 0, 2) == 1;
    return state;
}

__device__ float bounded(float x) { return min(max(x, -1.0f), 1.0f); }

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    float x = state.x + 0.1f * action[0] + params.noise * normal(rng, 0);
    float y = state.y + 0.1f * action[1] + uniform(rng, 0, -0.1f, 0.1f);
    if (params.friction) {
        x *= 0.95f;
        y *= 0.95f;
    }
    state.x = x = bounded(x);
    state.y = y = bounded(y);
    const int hop = integers(rng, 1, 0, 7);
    const float reward = (state.lucky ? x * y : x - y) - 0.25f * hop;
    // In single precision, as Triton has products of float32.
    state.energy = state.energy + x * x + y * y;
    state.hops += hop;
    state.lucky = !state.lucky;
    return Outcome{reward, state.hops % params.period == 0};
}

__device__ void observe(const State& state, Params params, Observation obs) {
    obs[0] = state.x;
    obs[1] = state.y;
    obs[2] = (float)(state.hops % params.period) / params.period;
}
