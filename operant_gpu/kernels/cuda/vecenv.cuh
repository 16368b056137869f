// Many steps, and resets, of any environment that is written for one: the semantics of the library around the three
// functions of an author. On a GPU a thread owns one environment for all steps; on a CPU a thread takes a block of them
// through all steps, then the next.
//
// Before this file stand, made from the definition: State, Params, Tables, Metrics, Outcome, Action, Observation and
// Observed (its number), the records Batch, Call and Draw, and what describes them; then sampling.cuh, block.cuh,
// observations.cuh and actions.cuh.
// The reference that it is tested against is the NumPy backend.

namespace operant {

// Whether the author's functions take a state of a type S, named.
template <class S>
__device__ constexpr auto step_takes(int)
    -> decltype(::step(*(S*)0, *(Action*)0, *(Rng*)0, *(Params*)0 OPERANT_TABLES_TYPE), true) { return true; }
template <class S>
__device__ constexpr bool step_takes(...) { return false; }
template <class S>
__device__ constexpr auto observe_takes(int)
    -> decltype(::observe(*(S*)0, *(Params*)0 OPERANT_TABLES_TYPE, *(Observation*)0), true) { return true; }
template <class S>
__device__ constexpr bool observe_takes(...) { return false; }
static_assert(!step_takes<const State>(0), "step changes the state in place: it takes State& state, not a copy");
static_assert(observe_takes<const State>(0), "observe takes const State& state, which it does not change");

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
    const int64_t row = block.row + k;
    const Rng rng = block.rng(k, STEP_STREAM);
    const Outcome outcome = ::step(state, block.action[k], rng, block.params(k) OPERANT_TABLES(block.batch, row));
    block.states.put(k, state);
    measure(block.batch, row, outcome);
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
        log_metrics(batch, block.row + k);
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
        if (call.action_mask) {
            bool* const mask = call.action_mask + step * call.action_mask_step;
            mask_all(block, mask, call.action_mask_row, call.action_mask_column);
        }
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
    if (HAS_METRICS) OPERANT_EACH_WHERE(block.done, k, n) begin_metrics(batch, row + k);
    OPERANT_EACH(k, n) {
        block.elapsed[k] = block.done[k] ? 0 : block.elapsed[k];
        block.episode_return[k] = block.done[k] ? 0.0 : block.episode_return[k];
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
