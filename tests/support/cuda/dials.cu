// Dials-v0 and MaskedDials-v0 of tests/support/contract_envs.py.
__device__ State reset(Rng rng, Params params) {
    return State{(int8_t)integers(rng, 0, -2, 3), integers(rng, 1, -2, 3)};
}

__device__ int turned(int dial, int step) { return min(max(dial + step, -4), 4); }

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    const int left = turned(state.left, action[0]), right = turned((int)state.right, action[1]);
    state.left = left;
    state.right = right;
    return Outcome{(float)(left * right), left == 0 && right == 0};
}

__device__ void observe(const State& state, Params params, Observation obs) {
    obs(0, 0) = state.left;
    obs(0, 1) = state.right;
    obs(1, 0) = state.left + state.right;
    obs(1, 1) = 1.0f;
}

__device__ bool is_legal(const State& state, int choice, Params params) {
    const int left = state.left, right = (int)state.right;
    switch (choice) {
        case 0: return left > -4;
        case 2: return left < 4;
        case 3: return right > -3;
        case 4: return right > -4;
        case 6: return left != right && right < 4;
        default: return true;
    }
}
