// Stairs-v0 of tests/support/reporting_envs.py.
__device__ State reset(Rng rng, Params params) { return State{(int8_t)integers(rng, 0, -3, 0)}; }

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    state.height = min(max(state.height + action - 1 + integers(rng, 0, 0, 2), -3), 2);
    return Outcome{(float)state.height, state.height == 2};
}

__device__ void observe(const State& state, Params params, Observation obs) { obs[0] = state.height; }
