// Seaquest of MinAtar. Bullets are rows of ten bits, bit x of row y being the cell (x, y), one set of rows for each way they
// go. Enemies and divers are lists in the order in which they came.
#include "minatar.cuh"

constexpr int MAX_ENEMIES = 32, MAX_DIVERS = 4, SEA_BED = 8, ROW = (1 << SIZE) - 1;
constexpr int MAX_OXYGEN = 200, FULL_CREW = 6, DIVER_INTERVAL = 30, DIVER_MOVE_INTERVAL = 5;
constexpr int FIRST_SPAWN_INTERVAL = 20, FIRST_MOVE_INTERVAL = 5, LAST_MOVE_INTERVAL = 2;
constexpr int SHOT_COOL_DOWN = 5, ENEMY_SHOT_INTERVAL = 10;

__device__ State reset(Rng rng, Params params) {
    State state = {};
    state.oxygen = MAX_OXYGEN;
    state.x = 5;
    state.heading = -1;
    state.spawn_interval = state.spawn_timer = FIRST_SPAWN_INTERVAL;
    state.diver_timer = DIVER_INTERVAL;
    state.move_interval = FIRST_MOVE_INTERVAL;
    state.at_surface = 1;
    return state;
}

__device__ bool is_out(int x) { return x < 0 || x > LAST; }

// Enemies come as submarines one time in three, else as fish, but never against the traffic of their row.
__device__ void spawn_enemy(State& state, const Rng& rng, int& draw) {
    const bool to_right = integers(rng, draw++, 0, 2) == 0;
    const bool is_sub = uniform(rng, draw++) < 1.0f / 3.0f;
    const int y = integers(rng, draw++, 1, SEA_BED + 1), heading = to_right ? 1 : -1;
    for (int i = 0; i < state.num_enemies; ++i) {
        if (state.enemy_y[i] == y && state.enemy_heading[i] != heading) return;
    }
    // As many as the fastest of them leave room for: the list is never full.
    const int i = min((int)state.num_enemies, MAX_ENEMIES - 1);
    state.enemy_x[i] = to_right ? 0 : LAST;
    state.enemy_y[i] = y;
    state.enemy_heading[i] = heading;
    state.enemy_timer[i] = state.move_interval;
    state.enemy_shot[i] = is_sub ? ENEMY_SHOT_INTERVAL : -1;
    state.num_enemies = i + 1;
}

__device__ __noinline__ void remove_enemy(State& state, int i) {
    --state.num_enemies;
    for (; i < state.num_enemies; ++i) {
        state.enemy_x[i] = state.enemy_x[i + 1];
        state.enemy_y[i] = state.enemy_y[i + 1];
        state.enemy_heading[i] = state.enemy_heading[i + 1];
        state.enemy_timer[i] = state.enemy_timer[i + 1];
        state.enemy_shot[i] = state.enemy_shot[i + 1];
    }
}

__device__ void spawn_diver(State& state, const Rng& rng, int& draw) {
    const bool to_right = integers(rng, draw++, 0, 2) == 0;
    const int i = min((int)state.num_divers, MAX_DIVERS - 1);
    state.diver_x[i] = to_right ? 0 : LAST;
    state.diver_y[i] = integers(rng, draw++, 1, SEA_BED + 1);
    state.diver_heading[i] = to_right ? 1 : -1;
    state.diver_timer_of[i] = DIVER_MOVE_INTERVAL;
    state.num_divers = i + 1;
}

__device__ void remove_diver(State& state, int i) {
    --state.num_divers;
    for (; i < state.num_divers; ++i) {
        state.diver_x[i] = state.diver_x[i + 1];
        state.diver_y[i] = state.diver_y[i + 1];
        state.diver_heading[i] = state.diver_heading[i + 1];
        state.diver_timer_of[i] = state.diver_timer_of[i + 1];
    }
}

// Let a bullet of the player's take what is in its cell. Return whether one does.
__device__ bool is_taken(State& state, int x, int y) {
    const int bit = is_out(x) ? 0 : 1 << x;
    if (state.bullets_left[y] & bit) state.bullets_left[y] &= ~bit;
    else if (state.bullets_right[y] & bit) state.bullets_right[y] &= ~bit;
    else return false;
    return true;
}

// Move the player's bullets; fish are hit before submarines.
__device__ float move_bullets(State& state) {
    float reward = 0.0f;
    for (int y = 0; y < SIZE; ++y) {
        state.bullets_left[y] = state.bullets_left[y] >> 1;
        state.bullets_right[y] = state.bullets_right[y] << 1 & ROW;
    }
    for (int subs = 0; subs < 2; ++subs) {
        for (int i = 0; i < state.num_enemies; ++i) {
            if ((state.enemy_shot[i] >= 0) != subs || !is_taken(state, state.enemy_x[i], state.enemy_y[i])) continue;
            remove_enemy(state, i--);
            reward += 1.0f;
        }
    }
    return reward;
}

__device__ bool is_at(const State& state, int x, int y) { return state.x == x && state.y == y; }

__device__ void move_divers(State& state) {
    for (int i = state.num_divers - 1; i >= 0; --i) {
        bool gone = false;
        if (is_at(state, state.diver_x[i], state.diver_y[i]) && state.crew < FULL_CREW) {
            ++state.crew;
            gone = true;
        } else if (state.diver_timer_of[i] == 0) {
            state.diver_timer_of[i] = DIVER_MOVE_INTERVAL;
            state.diver_x[i] += state.diver_heading[i];
            gone = is_out(state.diver_x[i]);
            if (is_at(state, state.diver_x[i], state.diver_y[i]) && state.crew < FULL_CREW) {
                ++state.crew;
                gone = true;
            }
        } else {
            --state.diver_timer_of[i];
        }
        if (gone) remove_diver(state, i);
    }
}

// Move the submarines or the fish, into bullets too, and let submarines shoot.
__device__ __noinline__ void move_enemies(State& state, bool subs, Outcome& outcome) {
    for (int i = state.num_enemies - 1; i >= 0; --i) {
        if ((state.enemy_shot[i] >= 0) != subs) continue;
        bool gone = false, hit = is_at(state, state.enemy_x[i], state.enemy_y[i]);
        if (state.enemy_timer[i] == 0) {
            state.enemy_timer[i] = state.move_interval;
            state.enemy_x[i] += state.enemy_heading[i];
            gone = is_out(state.enemy_x[i]);
            const bool meets = is_at(state, state.enemy_x[i], state.enemy_y[i]);
            hit |= meets;
            if (!gone && !meets && is_taken(state, state.enemy_x[i], state.enemy_y[i])) {
                outcome.reward += 1.0f;
                gone = true;
            }
        } else {
            --state.enemy_timer[i];
        }
        if (subs && state.enemy_shot[i] == 0) {
            state.enemy_shot[i] = ENEMY_SHOT_INTERVAL;
            const int bit = is_out(state.enemy_x[i]) ? 0 : 1 << state.enemy_x[i];
            if (state.enemy_heading[i] > 0) state.enemy_bullets_right[state.enemy_y[i]] |= bit;
            else state.enemy_bullets_left[state.enemy_y[i]] |= bit;
        } else if (subs) {
            --state.enemy_shot[i];
        }
        outcome.terminated |= hit;
        if (gone) remove_enemy(state, i);
    }
}

__device__ bool is_shot(const State& state) {
    return (state.enemy_bullets_left[state.y] | state.enemy_bullets_right[state.y]) >> state.x & 1;
}

__device__ bool move_enemy_bullets(State& state) {
    bool hit = is_shot(state);
    for (int y = 0; y < SIZE; ++y) {
        state.enemy_bullets_left[y] = state.enemy_bullets_left[y] >> 1;
        state.enemy_bullets_right[y] = state.enemy_bullets_right[y] << 1 & ROW;
    }
    return hit | is_shot(state);
}

// Take new air, for one diver; a full crew is brought home first, for a reward by the air that was left.
__device__ float surface(State& state, Params params) {
    float reward = 0.0f;
    state.at_surface = 1;
    if (state.crew == FULL_CREW) {
        state.crew = 0;
        reward = state.oxygen * 10 / MAX_OXYGEN;
    }
    // Also after a full crew, as MinAtar has it: the next diver makes it 0 again.
    --state.crew;
    state.oxygen = MAX_OXYGEN;
    if (params.difficulty_ramping && (state.spawn_interval > 1 || state.move_interval > LAST_MOVE_INTERVAL)) {
        if (state.move_interval > LAST_MOVE_INTERVAL && state.ramp_index % 2 == 1) --state.move_interval;
        if (state.spawn_interval > 1) --state.spawn_interval;
        ++state.ramp_index;
    }
    return reward;
}

__device__ void act(State& state, int move) {
    if (move == FIRE && state.cool_down == 0) {
        if (state.heading > 0) state.bullets_right[state.y] |= 1 << state.x;
        else state.bullets_left[state.y] |= 1 << state.x;
        state.cool_down = SHOT_COOL_DOWN;
    }
    const int dx = direction(move, LEFT, RIGHT);
    state.heading = dx == 0 ? state.heading : dx;
    state.x = moved(state.x, dx, 0, LAST);
    state.y = moved(state.y, direction(move, UP, DOWN), 0, SEA_BED);
}

__device__ Outcome step(State& state, Action action, Rng rng, Params params) {
    int draw = FIRST_DRAW;
    const int move = sticky(state, action, ALL_ACTIONS, rng, params);
    if (state.spawn_timer == 0) {
        spawn_enemy(state, rng, draw);
        state.spawn_timer = state.spawn_interval;
    }
    if (state.diver_timer == 0) {
        spawn_diver(state, rng, draw);
        state.diver_timer = DIVER_INTERVAL;
    }
    act(state, move);
    Outcome outcome = {move_bullets(state), false};
    move_divers(state);
    move_enemies(state, true, outcome);
    outcome.terminated |= move_enemy_bullets(state);
    move_enemies(state, false, outcome);

    state.spawn_timer -= state.spawn_timer > 0;
    state.diver_timer -= state.diver_timer > 0;
    state.cool_down -= state.cool_down > 0;
    // Also at the surface: new air comes too late for a step that begins without any.
    outcome.terminated |= state.oxygen <= 0;
    if (state.y > 0) {
        --state.oxygen;
        state.at_surface = 0;
    } else if (!state.at_surface) {
        if (state.crew == 0) outcome.terminated = true;
        else outcome.reward += surface(state, params);
    }
    return outcome;
}

__device__ void show_trail(Observation obs, int y, int x, int heading) {
    if (!is_out(x - heading)) obs(3, y, x - heading) = 1;
}

__device__ __noinline__ void observe(const State& state, Params params, Observation obs) {
    obs(0, state.y, state.x) = 1;
    const int back = state.x - state.heading;
    if (!is_out(back)) obs(1, state.y, back) = 1;
    for (int x = 0; x < state.oxygen * 10 / MAX_OXYGEN; ++x) obs(7, LAST, x) = 1;
    for (int x = LAST - state.crew; x < LAST; ++x) obs(8, LAST, x) = 1;
    for (int y = 0; y < SIZE; ++y) {
        show_row(obs, 2, y, state.bullets_left[y] | state.bullets_right[y]);
        show_row(obs, 4, y, state.enemy_bullets_left[y] | state.enemy_bullets_right[y]);
    }
    for (int i = 0; i < state.num_enemies; ++i) {
        obs(state.enemy_shot[i] >= 0 ? 6 : 5, state.enemy_y[i], state.enemy_x[i]) = 1;
        show_trail(obs, state.enemy_y[i], state.enemy_x[i], state.enemy_heading[i]);
    }
    for (int i = 0; i < state.num_divers; ++i) {
        obs(9, state.diver_y[i], state.diver_x[i]) = 1;
        show_trail(obs, state.diver_y[i], state.diver_x[i], state.diver_heading[i]);
    }
}
