// What calls of the learner read and write: the structures of `learner.py`, `update.py` and `rollout.py` in
// `operant_gpu/backends/cpp`, field by field. Strides are in elements, those from step to step in bytes.

#pragma once

#include <cstdint>

namespace operant {

constexpr int64_t MAX_LAYERS = 3;

struct Network {
    // Widths of the hidden layers, whether their activation is tanh (else relu).
    int64_t inputs, depth, widths[MAX_LAYERS], outputs, is_tanh, is_shared, is_gaussian;
    // Discrete actions: components, where their choices begin, and the number of the first choice of each.
    int64_t components;
    const int64_t *first_choices, *lows;
    // If there is a shift, observations are scaled and clipped.
    const float *parameters, *shift, *scale;
    double clip;
};

enum Kind : int64_t { FLOAT32, UINT8, INT8, INT32, INT64 };

struct Climb {
    Network network;
    // Sizes: samples of an iteration, epochs, minibatches of an epoch, parameter tensors, threads.
    int64_t samples, epochs, minibatches, tensors, threads, seed, iteration;
    int64_t normalizes_advantages, clips_values, has_target_kl;
    double clip_eps, vf_clip_eps, vf_coef, ent_coef, max_grad_norm, max_kl, lr;
    // Samples, one after the other.
    const void* obs;
    int64_t obs_kind;
    const void* action;
    const uint8_t* action_mask;
    const float *log_prob, *value, *advantages;
    // The optimizer, flat.
    float *parameters, *means, *squares, *count;
    const uint8_t* trainable;
    // For each gradient step: what was measured (6), the norms of the gradients, and the status before it.
    float *measured, *norms;
    int32_t* status;
};

enum Measured { POLICY_LOSS, VALUE_LOSS, ENTROPY, APPROX_KL, CLIP_FRAC, GRAD_NORM, NUM_MEASURED };
constexpr int32_t STOPPED = 1, FAULTY = 2;

// Rows of observations or conditions; of a trajectory, those of its first step.
struct Rows {
    const void* data;
    int64_t step, row, column;
};

// One number for each environment and step, from that of the first step on.
struct Numbers {
    void* data;
    int64_t step;
};

struct Rollout {
    Network network;
    int64_t num_steps;
    // The kernel that takes a step, its arguments, the words of the call that say where a step writes, and which of
    // them move on by how many bytes a step.
    const void* kernel;
    const void* batch;
    const int64_t* call;
    int64_t call_size, num_moved;
    const int64_t *moved, *moves;
    // What the network sees, and which choices are legal.
    Rows obs;
    int64_t obs_kind;
    Rows masks;
    // The streams. `ended` is set if the clock of environments that ended counts as 0.
    const int64_t* seed;
    const int32_t *env_id, *episode, *elapsed;
    const uint8_t *restarted, *ended;
    // Actions as the environments take them, (num_envs, components) int64 or float32; bounds of a Box.
    void* taken;
    const float *box_low, *box_high;
    // As drawn, if they are to be stored.
    Rows drawn;
    int64_t drawn_kind;
    Numbers log_prob, value;
    // Values of states that episodes would have gone on from, if they are to be stored.
    Rows final_obs;
    Numbers terminated, truncated, final_value;
};

}  // namespace operant
