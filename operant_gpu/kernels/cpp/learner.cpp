// What Python calls of the learner. Before this file stand constants and the structures Network, Climb, Rows and Rollout,
// made of the lists in `operant_gpu/backends/cpp/calls.py`; what the compiler saw is beside the library in the cache.

#include <new>

#include "rollout.hpp"
#include "update.hpp"

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Return whether there was memory for some work.
template <class Work> bool had_memory(const Work& work) {
    try {
        work();
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

// Take gradient steps of an iteration.
EXPORTED bool climb(const operant::Climb* climb) {
    return had_memory([&] { operant::Learner(*climb).run(); });
}

// The same in parts, between which processes take the means of what each has: moments, and of each step the gradient.
EXPORTED operant::Learner* begin_climb(const operant::Climb* climb) {
    operant::Learner* learner = nullptr;
    return had_memory([&] { learner = new operant::Learner(*climb); }) ? learner : nullptr;
}

EXPORTED void advantage_moments(operant::Learner* learner, double* moments) { learner->advantage_moments(moments); }

EXPORTED void compute_gradient(operant::Learner* learner, int64_t step) { learner->compute_gradient(step); }

EXPORTED void adam_step(operant::Learner* learner, int64_t step) { learner->adam_step(step); }

EXPORTED void end_climb(operant::Learner* learner) { delete learner; }

// Take the steps of a rollout in the environments from `first` up to `last`.
EXPORTED bool roll_out(const operant::Rollout* rollout, void* workspace, int64_t first, int64_t last) {
    return had_memory([&] { operant::roll_out(*rollout, workspace, first, last); });
}

// As `operant_gpu.kernels.triton.advantages` has it.
EXPORTED void estimate_advantages(float* advantages, const float* rewards, const float* values,
                                  const float* final_values, const uint8_t* terminated, const uint8_t* truncated,
                                  int64_t steps, int64_t envs, const operant::Hyperparameters* now) {
    for (int64_t step = steps - 1; step >= 0; --step)
        for (int64_t at = step * envs; at < (step + 1) * envs; ++at) {
            const bool ended = terminated[at] | truncated[at], is_last = step == steps - 1;
            float following = ended || is_last ? final_values[at] : values[at + envs];
            following = terminated[at] ? 0.0f : following;
            const float later = ended || is_last ? 0.0f : advantages[at + envs];
            advantages[at] = rewards[at] + now->gamma * following - values[at] + now->gamma * now->gae_lambda * later;
        }
}
