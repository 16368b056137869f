// Market-v0 of tests/support/reporting_envs.py.
__device__ State reset(Rng rng, Params params, Tables tables) {
    State state;
    state.day = tables.order(integers(rng, 0, -1, 6));
    state.held = tables.counts(3);
    state.paid = tables.weights(state.day);
    return state;
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params, Tables tables) {
    const int kind = integers(rng, 0, 0, params.kinds);
    state.day += tables.moves(action, kind, 2) + params.shift;
    const float price = tables.prices(state.day, state.held);
    const float gain = tables.is_open(state.day) ? price - tables.prices(0, 1) : -params.fee;
    state.held = tables.codes(kind, action) % 5 - 2;
    state.paid += tables.weights(state.held) * gain;
    const bool over = state.day > tables.prices.length() || state.day < -1;
    Metrics metrics = {};
    metrics.profit = metrics.worst = gain;
    metrics.holding = state.held;
    metrics.best = price;
    metrics.is_short = state.held < 0;
    metrics.left_out = 0.25f;
    metrics.price = tables.prices(state.day, 0);
    return Outcome{gain, over || tables.large(kind) + state.held == 5000000001ll, metrics};
}

__device__ void observe(const State& state, Params params, Tables tables, Observation obs) {
    obs[0] = state.day;
    obs[1] = tables.prices(state.day, state.held) * params.fee;
    obs[2] = tables.prices(tables.prices.length() - 1, 2);
    obs[3] = tables.counts(state.day) - 1;
    obs[4] = tables.is_open(state.day);
    obs[5] = state.paid;
}

__device__ bool is_legal(const State& state, int choice, Params params, Tables tables) {
    return choice == 0 ? tables.is_open(state.day) : tables.counts(2) > 0;
}
