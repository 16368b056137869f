// CUDA's functions that there are on a CPU too, of a random float x in [-2, 2).
__constant__ float SCALES[] = {0.5f, 2.0f};

__device__ State reset(Rng rng, Params params) {
    State state = {};
    state.x = uniform(rng, 0, -2.0f, 2.0f);
    state.wide = state.x / 3.0;
    state.bits = (int64_t)integers(rng, 1, 0, 1 << 30) << 20;
    return state;
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    state = reset(rng, params);
    return Outcome{abs(state.x), max(state.bits, (int64_t)7) < 1 << 22};
}

__device__ void observe(const State& state, Params params, Observation obs) {
    const float x = state.x;
    const float all[] = {
        abs(x), sin(x), exp(x), floor(x), pow(2.0f, x), fmodf(x, 0.75f), sqrt(abs(x)), min(x, 0.5f), max(x, -0.5f),
        (float)max(state.wide, 0.25), (float)min(state.wide, -0.25), (float)max(state.bits, (int64_t)1 << 40),
        (float)min((unsigned int)state.bits, 1u << 31), (float)abs((int)(x * 100.0f)), SCALES[x > 0.0f],
        (float)__popcll(state.bits), (float)__clzll(state.bits), (float)__ffsll(state.bits),
        (float)__popc((unsigned int)state.bits), (float)__clz((int)state.bits), (float)__ffs((int)state.bits),
        (float)__umulhi((unsigned int)state.bits, 0x80000000u),
    };
    for (int i = 0; i < params.count; ++i) obs[i] = all[i];
}
