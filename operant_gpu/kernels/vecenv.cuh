// Many steps, and resets, of any environment that is written for one: the semantics of the library around the three
// functions of an author. On a GPU a thread owns one environment for all steps, and keeps its state. On a CPU a thread
// owns blocks of environments, and goes over a block's columns at each step, in loops that a compiler can vectorize.
//
// Before this file stand, made from the definition: State, Params, Action, Observation and Observed (its number), the
// records Batch and Call, and what describes them. The reference that it is tested against is the NumPy backend.

#if defined(__SSE2__) && !defined(__CUDACC__)
#include <emmintrin.h>
#endif

namespace operant {

constexpr uint32_t RESET_STREAM = 0u << 28, STEP_STREAM = 1u << 28, POLICY_STREAM = 2u << 28;
constexpr int SAME_STEP = 0, NEXT_STEP = 1, DISABLED = 2;
constexpr int INT64 = 1;

#ifdef __CUDACC__

constexpr int BLOCK = 1;
#define OPERANT_FLATTEN
#define OPERANT_EACH(k, n) for (int k = 0; k < 1; ++k)
// With a bound of 1, nvcc would compute what is rare at each step, and choose: twice the registers.
#define OPERANT_EACH_WHERE(flags, k, n) for (int k = 0; k < (n); ++k) if ((flags)[k])

// The state of a thread's environment.
struct States {
    const Batch& batch;
    int64_t row;
    State state;

    __device__ States(const Batch& batch, int64_t row) : batch(batch), row(row), state(load(batch, row)) {}
    __device__ State& get(int) { return state; }
    __device__ void put(int, const State&) {}
    __device__ void begin(int, const State& fresh) { state = fresh; }
    __device__ void keep() { store(batch, row, state); }
};

#else

constexpr int BLOCK = 64;
// With the author's function in the loop, which is then vectorized if that has no branches.
#define OPERANT_FLATTEN __attribute__((flatten))
#define OPERANT_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define OPERANT_EACH(k, n) OPERANT_PRAGMA(clang loop vectorize(assume_safety)) for (int k = 0, end = (n); k < end; ++k)
#else
#define OPERANT_EACH(k, n) OPERANT_PRAGMA(GCC ivdep) for (int k = 0, end = (n); k < end; ++k)
#endif

// The environments of a block that have a flag, in a list: a branch for each would be mispredicted wherever one has it.
struct Chosen {
    int32_t number[BLOCK];
    int32_t count;

    Chosen(const int32_t* flags, int n) {
        int found = 0;
        for (int k = 0; k < n; ++k) {
            number[found] = k;
            found += flags[k] != 0;
        }
        count = found;
    }
    const int32_t* begin() const { return number; }
    const int32_t* end() const { return number + count; }
};

#define OPERANT_EACH_WHERE(flags, k, n) for (const int k : Chosen(flags, n))

// The states of a block, which stay in their columns.
struct States {
    const Batch& batch;
    int64_t row;

    States(const Batch& batch, int64_t row) : batch(batch), row(row) {}
    State get(int k) const { return load(batch, row + k); }
    void put(int k, const State& state) const { store(batch, row + k, state); }
    void begin(int k, const State& fresh) const { put(k, fresh); }
    void keep() const {}
};

#endif

// A block of environments during a call: `n` of them, from number `row` on.
struct Block {
    const Batch& batch;
    const int64_t row;
    const int n;
    States states;
    // With a cache line, so that no vector lies across two.
    alignas(BLOCK > 1 ? 64 : 8) int64_t seed[BLOCK];
    int32_t env_id[BLOCK], episode[BLOCK], elapsed[BLOCK];
    float episode_return[BLOCK], reward[BLOCK];
    int32_t ended[BLOCK], terminated[BLOCK], truncated[BLOCK], active[BLOCK], done[BLOCK];
    Action action[BLOCK];

    __device__ Block(const Batch& batch, int64_t row, int n) : batch(batch), row(row), n(n), states(batch, row) {
        OPERANT_EACH(k, n) {
            seed[k] = batch.seed[row + k];
            env_id[k] = batch.env_id[row + k];
            episode[k] = batch.episode[row + k];
            elapsed[k] = batch.elapsed[row + k];
            episode_return[k] = batch.episode_return[row + k];
            ended[k] = batch.ended[row + k];
        }
    }

    __device__ Rng rng(int k, uint32_t stream) const { return Rng{seed[k], env_id[k], episode[k], elapsed[k], stream}; }

    __device__ bool any(const int32_t* flags) const {
        int32_t found = 0;
        OPERANT_EACH(k, n) found |= flags[k];
        return found != 0;
    }

    // Read the clock and the return of an episode that ended as zero.
    __device__ void begin_clock() {
        OPERANT_EACH(k, n) {
            elapsed[k] = ended[k] ? 0 : elapsed[k];
            episode_return[k] = ended[k] ? 0.0f : episode_return[k];
        }
    }

    __device__ void begin_episodes(const int32_t* flags) {
        OPERANT_EACH_WHERE(flags, k, n) {
            ++episode[k];
            states.begin(k, ::reset(Rng{seed[k], env_id[k], episode[k], 0, RESET_STREAM}, Params()));
        }
    }

    __device__ void store_clock() {
        OPERANT_EACH(k, n) {
            batch.episode[row + k] = episode[k];
            batch.elapsed[row + k] = elapsed[k];
            batch.episode_return[row + k] = episode_return[k];
            batch.ended[row + k] = ended[k] != 0;
        }
    }
};

// Observations and action masks

// Observations in memory: those of a call's first environment, and strides in numbers.
struct View {
    Observed* first;
    int64_t row_stride, column_stride;
    // Whether to write past the cache, as a rollout does, whose steps are read when all of them are there.
    bool streams;

    // Whether the numbers of an environment lie side by side, as on a CPU, where a column of many environments would
    // leave one number in each of as many lines of the cache.
    __device__ bool is_plain() const { return BLOCK > 1 && column_stride == 1; }
};

#ifndef __CUDACC__
// Whether an observation is put together in the first-level cache, on the stack.
constexpr bool IS_SMALL = OBSERVATION_SIZE * sizeof(Observed) <= 16384;

// Write an observation that was put together so.
inline void put_whole(Observed* to, const Observed* whole, bool streams) {
    constexpr int BYTES = OBSERVATION_SIZE * sizeof(Observed);
#ifdef __SSE2__
    if (streams && BYTES % 16 == 0 && (intptr_t)to % 16 == 0) {
        const __m128i* const from = (const __m128i*)whole;
        for (int i = 0; i < BYTES / 16; ++i) _mm_stream_si128((__m128i*)to + i, _mm_load_si128(from + i));
        return;
    }
#endif
    memcpy(to, whole, BYTES);
}
#endif

__device__ __forceinline__ void observe_one(Block& block, int k, const View& view) {
    Observed* const first = view.first + (block.row + k) * view.row_stride;
    auto&& state = block.states.get(k);
#ifndef __CUDACC__
    if (IS_SMALL && view.is_plain()) {
        alignas(16) Observed whole[IS_SMALL ? OBSERVATION_SIZE : 1] = {};
        ::observe(state, Params(), Observation{whole, 1});
        put_whole(first, whole, view.streams);
        return;
    }
#endif
    for (int i = 0; i < OBSERVATION_SIZE; ++i) first[i * view.column_stride] = 0;
    ::observe(state, Params(), Observation{first, view.column_stride});
}

OPERANT_FLATTEN __device__ void observe_all(Block& block, const View& view) {
    for (int k = 0; k < block.n; ++k) observe_one(block, k, view);
}

// Observe the environments that have just begun; the others show what `last` holds.
__device__ void observe_begun(Block& block, const View& view, const View& last) {
    for (int k = 0; k < block.n; ++k) {
        if (block.done[k]) {
            observe_one(block, k, view);
            continue;
        }
        const Observed* const from = last.first + (block.row + k) * last.row_stride;
        Observed* const to = view.first + (block.row + k) * view.row_stride;
#ifndef __CUDACC__
        if (view.is_plain() && last.is_plain()) {
            memcpy(to, from, OBSERVATION_SIZE * sizeof(Observed));
            continue;
        }
#endif
        for (int i = 0; i < OBSERVATION_SIZE; ++i) to[i * view.column_stride] = from[i * last.column_stride];
    }
}

__device__ void mask_all(Block& block, bool* mask, int64_t row_stride, int64_t column_stride) {
    mask += block.row * row_stride;
    for (int k = 0; k < block.n; ++k) {
        auto&& state = block.states.get(k);
        for (int choice = 0; choice < NUM_CHOICES; ++choice) {
            mask[k * row_stride + choice * column_stride] = legal(state, choice);
        }
    }
}

// Actions

// Draw component i uniform on its legal choices; the last one where none is legal.
__device__ __forceinline__ int32_t random_choice(const State& state, const Rng& rng, int i) {
    const int32_t low = action_low(i), size = action_high(i) - low;
    if (!HAS_MASK) return integers(rng, i, low, low + size);
    int32_t count = 0;
    for (int j = 0; j < size; ++j) count += legal(state, first_choice(i) + j);
    int32_t left = integers(rng, i, 0, count);
    for (int j = 0; j < size; ++j) {
        if (legal(state, first_choice(i) + j) && left-- == 0) return low + j;
    }
    return low + size - 1;
}

__device__ void draw_actions(Block& block) {
    OPERANT_EACH(k, block.n) {
        const Rng rng = block.rng(k, POLICY_STREAM);
        auto&& state = block.states.get(k);
        for (int i = 0; i < ACTION_SIZE; ++i) {
            if (IS_DISCRETE) set_component(block.action[k], i, random_choice(state, rng, i));
            else set_component(block.action[k], i, uniform(rng, i, box_low(i), box_high(i)));
        }
        block.active[k] = 1;
    }
}

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

template <class T>
__device__ void take_actions(Block& block, const T* actions, int64_t row_stride, int64_t column_stride) {
    actions += block.row * row_stride;
    for (int i = 0; i < ACTION_SIZE; ++i) {
        OPERANT_EACH(k, block.n) {
            const T given = actions[k * row_stride + i * column_stride];
            const bool valid = IS_DISCRETE ? given >= (T)action_low(i) && given < (T)action_high(i) : is_finite(given);
            set_component(block.action[k], i, given);
            block.active[k] = valid & (i == 0 || block.active[k]);
        }
    }
}

__device__ void load_actions(Block& block, const Call& call, int64_t step) {
    const int64_t first = step * call.actions_step, row = call.actions_row, column = call.actions_column;
    if (!IS_DISCRETE) take_actions(block, (const float*)call.actions + first, row, column);
    else if (call.actions_kind == INT64) take_actions(block, (const int64_t*)call.actions + first, row, column);
    else take_actions(block, (const int32_t*)call.actions + first, row, column);
}

__device__ void store_actions(const Block& block, const Call& call, int64_t step) {
    const int64_t first = step * call.action_step;
    for (int k = 0; k < block.n; ++k) {
        for (int i = 0; i < ACTION_SIZE; ++i) {
            const int64_t at = first + (block.row + k) * call.action_row + i * call.action_column;
            const auto value = component(block.action[k], i);
            if (!IS_DISCRETE) ((float*)call.action)[at] = value;
            else if (call.action_kind == INT64) ((int64_t*)call.action)[at] = value;
            else ((int32_t*)call.action)[at] = value;
        }
    }
}

// Draw an action from the distribution that a network describes, as `operant_gpu/sampling.py` does.
__device__ void draw_one(const Batch& batch, const Draw& draw, int64_t row) {
    const int32_t elapsed = batch.ended[row] && batch.mode != DISABLED ? 0 : batch.elapsed[row];
    const Rng rng = {batch.seed[row], batch.env_id[row], batch.episode[row], elapsed, POLICY_STREAM};
    const float* const outputs = draw.outputs + row * draw.outputs_row;
    const bool* const mask = draw.mask + row * draw.mask_row;
    float log_prob = 0.0f;
    for (int i = 0; i < ACTION_SIZE; ++i) {
        const int64_t at = row * ACTION_SIZE + i;
        if (!IS_DISCRETE) {
            const float noise = normal(rng, i), log_std = draw.log_std[i];
            const float drawn = outputs[i * draw.outputs_column] + noise * expf(log_std);
            log_prob += -0.5f * noise * noise - log_std - 0.9189385332046727f;
            ((float*)draw.drawn)[at] = drawn;
            // What is not a number stays so.
            draw.taken[at] = drawn < box_low(i) ? box_low(i) : drawn > box_high(i) ? box_high(i) : drawn;
            continue;
        }
        const int first = first_choice(i), size = action_high(i) - action_low(i);
        // Illegal choices have no weight.
        const auto logit = [&](int j) {
            const bool is_legal = !HAS_MASK || mask[(first + j) * draw.mask_column];
            return is_legal ? outputs[(first + j) * draw.outputs_column] : -3.402823466e38f;
        };
        float highest = logit(0), total = 0.0f;
        for (int j = 1; j < size; ++j) highest = max(highest, logit(j));
        for (int j = 0; j < size; ++j) total += expf(logit(j) - highest);
        const float target = uniform(rng, i) * total;
        // The last choice that has any weight, if rounding has left the target beyond all of them.
        int choice = 0;
        float chosen = highest, sum = 0.0f;
        for (int j = 0; j < size && !(sum > 0.0f && target < sum); ++j) {
            const float weight = expf(logit(j) - highest);
            if (weight > 0.0f) choice = j, chosen = logit(j);
            sum += weight;
        }
        log_prob += chosen - highest - logf(total);
        ((int64_t*)draw.drawn)[at] = choice + action_low(i);
    }
    draw.log_prob[row] = log_prob;
}

// Steps

// Leave in `active` who takes the action, and count those that should have but cannot.
__device__ void find_active(Block& block, const Call& call) {
    const Batch& batch = block.batch;
    const bool skips = batch.mode != SAME_STEP, counts_late = batch.mode == DISABLED && call.counts_late;
    OPERANT_EACH(k, block.n) block.done[k] = !block.active[k] && !(skips && block.ended[k]);
    if (block.any(block.done)) {
        for (int k = 0; k < block.n; ++k) batch.bad_actions[block.row + k] += block.done[k];
    }
    if (!skips) return;
    OPERANT_EACH(k, block.n) block.active[k] &= !block.ended[k];
    if (!counts_late || !block.any(block.ended)) return;
    for (int k = 0; k < block.n; ++k) batch.late_steps[block.row + k] += block.ended[k];
}

__device__ __forceinline__ void step_one(Block& block, int k) {
    auto&& state = block.states.get(k);
    const Outcome outcome = ::step(state, block.action[k], block.rng(k, STEP_STREAM), Params());
    block.states.put(k, state);
    block.reward[k] = outcome.reward;
    block.terminated[k] = outcome.terminated;
}

OPERANT_FLATTEN __device__ void step_all(Block& block) {
    OPERANT_EACH(k, block.n) step_one(block, k);
}

__device__ void advance(Block& block) {
    OPERANT_EACH(k, block.n) block.done[k] = !block.active[k];
    if (!block.any(block.done)) {
        step_all(block);
        return;
    }
    for (int k = 0; k < block.n; ++k) {
        block.reward[k] = 0.0f;
        block.terminated[k] = 0;
        if (block.active[k]) step_one(block, k);
    }
}

// Move the clock and the statistics on; leave in `done` what ended.
__device__ void finish(Block& block) {
    const Batch& batch = block.batch;
    const int32_t limit = (int32_t)batch.limit;
    OPERANT_EACH(k, block.n) {
        block.elapsed[k] += block.active[k];
        block.episode_return[k] += block.reward[k];
        block.truncated[k] = block.active[k] & (block.elapsed[k] >= limit);
        block.done[k] = block.terminated[k] | block.truncated[k];
    }
    OPERANT_EACH_WHERE(block.done, k, block.n) {
        batch.log_count[block.row + k] += 1;
        batch.log_return[block.row + k] += block.episode_return[k];
        batch.log_length[block.row + k] += block.elapsed[k];
    }
}

__device__ void store_outcome(const Block& block, const Call& call, int64_t step) {
    if (call.reward) {
        float* const reward = call.reward + step * call.reward_step + block.row;
        OPERANT_EACH(k, block.n) reward[k] = block.reward[k];
    }
    if (call.terminated) {
        bool* const terminated = call.terminated + step * call.terminated_step + block.row;
        OPERANT_EACH(k, block.n) terminated[k] = block.terminated[k] != 0;
    }
    if (call.truncated) {
        bool* const truncated = call.truncated + step * call.truncated_step + block.row;
        OPERANT_EACH(k, block.n) truncated[k] = block.truncated[k] != 0;
    }
}

__device__ void take_steps(const Batch& batch, const Call& call, int64_t row, int n, int64_t num_steps) {
    Block block(batch, row, n);
    const int mode = (int)batch.mode;
    View last = {};
    const bool streams = num_steps > 1;
    for (int64_t step = 0; step < num_steps; ++step) {
        if (mode != DISABLED) block.begin_clock();
        if (call.obs) observe_all(block, View{call.obs + step * call.obs_step, call.obs_row, call.obs_column, streams});
        if (call.mask) mask_all(block, call.mask + step * call.mask_step, call.mask_row, call.mask_column);
        if (call.actions) load_actions(block, call, step);
        else draw_actions(block);
        if (call.action) store_actions(block, call, step);

        find_active(block, call);
        advance(block);
        finish(block);
        store_outcome(block, call, step);
        if (mode == NEXT_STEP) block.begin_episodes(block.ended);
        if (call.final_obs) {
            Observed* const first = call.final_obs + step * call.final_obs_step;
            last = View{first, call.final_obs_row, call.final_obs_column, streams && step + 1 < num_steps};
            observe_all(block, last);
        }
        if (mode == SAME_STEP) block.begin_episodes(block.done);
        OPERANT_EACH(k, n) block.ended[k] = block.done[k] | (mode == DISABLED ? block.ended[k] : 0);
    }
    block.states.keep();
    block.store_clock();
    const View present = {call.present_obs, call.present_obs_row, call.present_obs_column, false};
    if (last.first && mode == SAME_STEP && BLOCK > 1) observe_begun(block, present, last);
    else observe_all(block, present);
    if (HAS_MASK) mask_all(block, call.present_mask, call.present_mask_row, call.present_mask_column);
}

__device__ void reset_some(const Batch& batch, const Call& call, int64_t row, int n, const bool* mask) {
    Block block(batch, row, n);
    OPERANT_EACH(k, n) block.done[k] = mask[row + k];
    block.begin_episodes(block.done);
    OPERANT_EACH(k, n) {
        block.elapsed[k] = block.done[k] ? 0 : block.elapsed[k];
        block.episode_return[k] = block.done[k] ? 0.0f : block.episode_return[k];
        block.ended[k] = block.done[k] ? 0 : block.ended[k];
    }
    block.states.keep();
    block.store_clock();
    observe_all(block, View{call.present_obs, call.present_obs_row, call.present_obs_column, false});
    if (HAS_MASK) mask_all(block, call.present_mask, call.present_mask_row, call.present_mask_column);
}

}  // namespace operant

#ifdef __CUDACC__

extern "C" __global__ void operant_steps(operant::Batch batch, operant::Call call, int64_t num_steps) {
    const int64_t row = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (row < batch.num_envs) operant::take_steps(batch, call, row, 1, num_steps);
}

extern "C" __global__ void operant_reset(operant::Batch batch, operant::Call call, int64_t mask) {
    const int64_t row = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (row < batch.num_envs) operant::reset_some(batch, call, row, 1, (const bool*)mask);
}

extern "C" __global__ void operant_draw(operant::Batch batch, operant::Draw draw, int64_t) {
    const int64_t row = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (row < batch.num_envs) operant::draw_one(batch, draw, row);
}

#else

#define OPERANT_ENTRY extern "C" __attribute__((visibility("default"))) void

// Each works on the environments from `first` up to `last`.
OPERANT_ENTRY operant_steps(const operant::Batch* batch, const operant::Call* call, int64_t first, int64_t last,
                            int64_t num_steps) {
    for (int64_t row = first; row < last; row += operant::BLOCK) {
        const int64_t left = last - row;
        operant::take_steps(*batch, *call, row, left < operant::BLOCK ? (int)left : operant::BLOCK, num_steps);
    }
#ifdef __SSE2__
    // What was streamed is to be seen before whatever tells another thread that it is there.
    _mm_sfence();
#endif
}

OPERANT_ENTRY operant_reset(const operant::Batch* batch, const operant::Call* call, int64_t first, int64_t last,
                            int64_t mask) {
    for (int64_t row = first; row < last; row += operant::BLOCK) {
        const int64_t left = last - row;
        operant::reset_some(*batch, *call, row, left < operant::BLOCK ? (int)left : operant::BLOCK, (const bool*)mask);
    }
}

OPERANT_ENTRY operant_draw(const operant::Batch* batch, const operant::Draw* draw, int64_t first, int64_t last, int64_t) {
    for (int64_t row = first; row < last; ++row) operant::draw_one(*batch, *draw, row);
}

#endif
