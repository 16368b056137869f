// Snake, as operant_gpu/envs/snake.py has it in Triton.

constexpr int SIDE = 10, CELLS = SIDE * SIDE, NO_CELL = 128;

__device__ int32_t free_cell(const State& state, const Rng& rng, int draw) {
    const int8_t* body = &state.body[0][0];
    int count = 0;
    for (int cell = 0; cell < CELLS; ++cell) count += body[cell] == 0;
    int left = integers(rng, draw, 0, max(count, 1));
    for (int cell = 0; cell < CELLS; ++cell) {
        if (body[cell] == 0 && left-- == 0) return cell;
    }
    return NO_CELL;
}

__device__ State reset(Rng rng, Params params) {
    State state = {};
    state.head = integers(rng, 0, 0, CELLS);
    state.length = 3;
    state.body[state.head / SIDE][state.head % SIDE] = 3;
    state.food = free_cell(state, rng, 1);
    return state;
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    const int y = state.head / SIDE + (action == 1) - (action == 0), x = state.head % SIDE + (action == 3) - (action == 2);
    const bool inside = y >= 0 && y < SIDE && x >= 0 && x < SIDE;
    const bool eats = inside && y * SIDE + x == state.food;
    state.length += eats;
    for (int cell = 0; cell < CELLS && !eats; ++cell) {
        int8_t& age = state.body[cell / SIDE][cell % SIDE];
        age -= age > 0;
    }
    const bool bites = !inside || state.body[y][x] > 0;
    if (!bites) {
        state.head = y * SIDE + x;
        state.body[y][x] = state.length;
    }
    if (eats) state.food = free_cell(state, rng, 0);
    return Outcome{(float)eats - bites, bites || state.length == CELLS};
}

__device__ void observe(const State& state, Params params, Observation obs) {
    obs(0, state.head / SIDE, state.head % SIDE) = 1.0f;
    for (int cell = 0; cell < CELLS; ++cell) {
        obs[CELLS + cell] = (float)state.body[cell / SIDE][cell % SIDE] / (float)state.length;
    }
    if (state.food < CELLS) obs[2 * CELLS + state.food] = 1.0f;
}
