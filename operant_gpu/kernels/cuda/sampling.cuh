// Draws from the distributions that a network describes, as `operant_gpu/sampling.py` has them. Their log-probabilities
// are added to `log_prob`.
#pragma once

namespace operant {

constexpr double LOG_SQRT_2PI = 0.9189385332046727;
// The logit of an illegal choice, which has no weight beside any that is legal.
constexpr float LOWEST = -3.402823466e38f;

// Draw component i from the softmax of `logit(j)` for `size` choices.
template <class Logit>
__device__ __forceinline__ int draw_choice(const Rng& rng, int i, int size, const Logit& logit, float& log_prob) {
    float highest = LOWEST, total = 0.0f;
    for (int j = 0; j < size; ++j) highest = logit(j) > highest ? logit(j) : highest;
    for (int j = 0; j < size; ++j) total += expf(logit(j) - highest);
    const float target = uniform(rng, i) * total;
    // The last choice that has any weight, if rounding has left the target beyond all of them.
    int choice = 0;
    float chosen = highest, sum = 0.0f;
    for (int j = 0; j < size && !(sum > target); ++j) {
        const float weight = expf(logit(j) - highest);
        if (!(weight > 0.0f)) continue;
        choice = j, chosen = logit(j);
        sum += weight;
    }
    log_prob += chosen - highest - logf(total);
    return choice;
}

// Draw component i from a normal.
__device__ __forceinline__ float draw_normal(const Rng& rng, int i, float mean, float log_std, float& log_prob) {
    const float noise = normal(rng, i);
    log_prob += -0.5f * noise * noise - log_std - (float)LOG_SQRT_2PI;
    return mean + noise * expf(log_std);
}

// What is not a number stays so: the environment refuses it.
__device__ __forceinline__ float clamped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

}  // namespace operant
