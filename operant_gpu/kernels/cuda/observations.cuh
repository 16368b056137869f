// What a block writes of its states: observations and action masks.

#if defined(__SSE2__) && !defined(__CUDACC__)
#include <emmintrin.h>
#endif

namespace operant {

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
        ::observe(state, block.params(k) OPERANT_TABLES(block.batch, block.row + k), Observation{whole, 1});
        put_whole(first, whole, view.streams);
        return;
    }
#endif
    for (int i = 0; i < OBSERVATION_SIZE; ++i) first[i * view.column_stride] = 0;
    const Observation observation = {first, view.column_stride};
    ::observe(state, block.params(k) OPERANT_TABLES(block.batch, block.row + k), observation);
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
            mask[k * row_stride + choice * column_stride] = legal(block, k, state, choice);
        }
    }
}

}  // namespace operant
