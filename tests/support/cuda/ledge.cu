// Ledge-v0 of tests/support/contract_envs.py.
__device__ State reset(Rng rng, Params params) {
    return State{integers(rng, 0, 0, params.width + 1), integers(rng, 1, 0, 4), false};
}

__device__ bool is_legal(const State& state, int choice, Params params) {
    switch (choice) {
        case 0: return true;
        case 1: return state.x > 0;
        case 2: return state.x < params.width;
        case 3: return state.breath >= 2 && state.x + 2 <= params.width;
        default: return state.winded;
    }
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    const bool legal = is_legal(state, action - 1, params), leaps = legal && action == 4;
    if (legal) {
        const int steps[] = {0, -1, 1, 2, 0}, breaths[] = {1, 0, 0, -2, 3};
        state.x += steps[action - 1];
        state.breath += breaths[action - 1];
    }
    state.breath = min((int)state.breath, 5);
    state.winded = leaps;
    return Outcome{legal ? -0.1f * params.width : -1.0f, state.x == params.width};
}

__device__ void observe(const State& state, Params params, Observation obs) {
    obs[0] = state.x;
    obs[1] = state.breath;
    obs[2] = state.winded;
}
