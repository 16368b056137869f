// Where a block's actions come from: given, random, or of the distribution that a network describes.

namespace operant {

// Draw component i uniform on its legal choices; the last one where none is legal.
__device__ __forceinline__ int32_t random_choice(const Block& block, int k, const State& state, const Rng& rng, int i) {
    const int32_t low = action_low(i), size = action_high(i) - low;
    if (!HAS_MASK) return integers(rng, i, low, low + size);
    int32_t count = 0;
    for (int j = 0; j < size; ++j) count += legal(block, k, state, first_choice(i) + j);
    int32_t left = integers(rng, i, 0, count);
    for (int j = 0; j < size; ++j) {
        if (legal(block, k, state, first_choice(i) + j) && left-- == 0) return low + j;
    }
    return low + size - 1;
}

__device__ void draw_actions(Block& block) {
    OPERANT_EACH(k, block.n) {
        const Rng rng = block.rng(k, POLICY_STREAM);
        auto&& state = block.states.get(k);
        for (int i = 0; i < ACTION_SIZE; ++i) {
            if (IS_DISCRETE) operant::set_component(block.action[k], i, random_choice(block, k, state, rng, i));
            else operant::set_component(block.action[k], i, uniform(rng, i, box_low(i), box_high(i)));
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
            operant::set_component(block.action[k], i, given);
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
            const auto value = operant::component(block.action[k], i);
            if (!IS_DISCRETE) ((float*)call.action)[at] = value;
            else if (call.action_kind == INT64) ((int64_t*)call.action)[at] = value;
            else ((int32_t*)call.action)[at] = value;
        }
    }
}

// Draw an action from the distribution that a network describes.
__device__ void draw_one(const Batch& batch, const Draw& draw, int64_t row) {
    const int32_t elapsed = batch.ended[row] && batch.mode != DISABLED ? 0 : batch.elapsed[row];
    const Rng rng = {batch.seed[row], batch.env_id[row], batch.episode[row], elapsed, POLICY_STREAM};
    const float* const outputs = draw.outputs + row * draw.outputs_row;
    const bool* const mask = draw.action_mask + row * draw.action_mask_row;
    float log_prob = 0.0f;
    for (int i = 0; i < ACTION_SIZE; ++i) {
        const int64_t at = row * ACTION_SIZE + i;
        if (!IS_DISCRETE) {
            const float mean = outputs[i * draw.outputs_column];
            const float drawn = draw_normal(rng, i, mean, draw.log_std[i], log_prob);
            ((float*)draw.drawn)[at] = drawn;
            const float scaled = draw.scales ? box_center(i) + box_radius(i) * drawn : drawn;
            draw.taken[at] = clamped(scaled, box_low(i), box_high(i));
            continue;
        }
        const int first = first_choice(i), low = action_low(i), size = action_high(i) - low;
        const auto logit = [&](int j) {
            const bool is_legal = !HAS_MASK || mask[(first + j) * draw.action_mask_column];
            return is_legal ? outputs[(first + j) * draw.outputs_column] : LOWEST;
        };
        ((int64_t*)draw.drawn)[at] = low + draw_choice(rng, i, size, logit, log_prob);
    }
    draw.log_prob[row] = log_prob;
}

}  // namespace operant
