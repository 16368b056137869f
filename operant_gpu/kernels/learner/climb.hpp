// What one call of the learner reads and writes; the fields of `operant_gpu.backends.cpp_update._Climb`, in its order.

#pragma once

#include <cstdint>

namespace operant {

constexpr int64_t MAX_LAYERS = 3;

struct Climb {
    // The network: widths of the hidden layers, whether its activation is tanh (else relu).
    int64_t inputs, depth, widths[MAX_LAYERS], outputs, is_tanh, is_shared, is_gaussian;
    // Discrete actions: components, where their choices begin and end, and the number of the first choice of each.
    int64_t components;
    const int64_t *first_choices, *lows;
    // Sizes: samples of an iteration, epochs, minibatches of an epoch, parameter tensors, threads.
    int64_t samples, epochs, parts, tensors, threads, seed, iteration;
    int64_t normalizes_advantages, clips_values, has_target_kl;
    double clip_eps, vf_clip_eps, vf_coef, ent_coef, max_grad_norm, max_kl, lr, obs_clip;
    // Samples, one after the other: observations are bytes if obs_kind is 1, else floats.
    const void* obs;
    int64_t obs_kind;
    const float *shift, *scale;
    const void* actions;
    const uint8_t* masks;
    const float *log_probs, *values, *advantages;
    // The optimizer, flat.
    float *parameters, *means, *squares, *count;
    const uint8_t* trainable;
    // For each gradient step: what was measured (6), the norms of the gradients, and the status before it.
    float *measured, *norms;
    int32_t* status;
};

enum Measured { POLICY_LOSS, VALUE_LOSS, ENTROPY, APPROX_KL, CLIP_FRAC, GRAD_NORM, NUM_MEASURED };
constexpr int32_t STOPPED = 1, FAULTY = 2;

}  // namespace operant
