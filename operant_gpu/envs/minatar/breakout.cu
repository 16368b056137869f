// Breakout of MinAtar. Three rows of bricks are the bits of `bricks`; everything else is a number, without a branch that
// random play would mispredict.
#include "minatar.cuh"

constexpr int NUM_BRICKS = 3 * SIZE, PADDLE_Y = LAST;
constexpr int ALL_BRICKS = (1 << NUM_BRICKS) - 1;

__device__ State reset(Rng rng, Params params) {
    State state = {};
    const bool from_left = integers(rng, 0, 0, 2) == 0;
    state.ball_x = state.last_x = from_left ? 0 : LAST;
    state.ball_y = state.last_y = 3;
    state.velocity_x = from_left ? 1 : -1;
    state.velocity_y = 1;
    state.paddle = 4;
    state.bricks = ALL_BRICKS;
    return state;
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    const int move = sticky(state, action, actions(LEFT, RIGHT), rng, params);
    state.paddle = moved(state.paddle, direction(move, LEFT, RIGHT), 0, LAST);

    int x = state.ball_x + state.velocity_x, y = state.ball_y + state.velocity_y;
    const int at_side = (x < 0) | (x > LAST), at_top = y < 0;
    x = min(max(x, 0), LAST);
    y = max(y, 0);

    // A brick that the ball meets while it is still inside the wall is passed, until it has been outside once.
    const int cell = (y - 1) * SIZE + x;
    const int in_wall = (cell >= 0) & (cell < NUM_BRICKS) & (y > 0);
    const int bit = in_wall ? 1 << (cell & 31) : 0;
    const int meets_brick = (state.bricks & bit) != 0;
    const int breaks = meets_brick & (1 - state.strike);
    state.bricks = breaks ? state.bricks & ~bit : state.bricks;
    state.strike = meets_brick;

    const int at_bottom = y == PADDLE_Y;
    state.bricks = at_bottom & (state.bricks == 0) ? ALL_BRICKS : state.bricks;
    const int above = at_bottom & (state.ball_x == state.paddle);
    const int at_edge = at_bottom & (1 - above) & (x == state.paddle);
    const int bounces = breaks | above | at_edge;

    state.velocity_x = at_side != at_edge ? -state.velocity_x : state.velocity_x;
    state.velocity_y = at_top | bounces ? -state.velocity_y : state.velocity_y;
    state.last_x = state.ball_x;
    state.last_y = state.ball_y;
    state.ball_x = x;
    state.ball_y = bounces ? state.last_y : y;
    return Outcome{breaks ? 1.0f : 0.0f, at_bottom & (1 - above) & (1 - at_edge)};
}

__device__ void observe(const State& state, Params params, Observation obs) {
    obs(0, PADDLE_Y, state.paddle) = 1;
    obs(1, state.ball_y, state.ball_x) = 1;
    obs(2, state.last_y, state.last_x) = 1;
    for (int cell = 0; cell < NUM_BRICKS; ++cell) obs[3 * SIZE * SIZE + SIZE + cell] = state.bricks >> cell & 1;
}
