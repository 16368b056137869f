// PPO's objective over a tile of samples: from outputs and values to the gradients by them, in their place.

#pragma once

#include <algorithm>
#include <cmath>

#include "../cuda/environment.cuh"
#include "../cuda/sampling.cuh"
#include "network.hpp"

namespace operant {

// Sums over samples: what is measured, and the gradient by the logarithms of deviations.
struct Sums {
    double measured[NUM_MEASURED] = {};
    std::vector<double> log_std;
    explicit Sums(int64_t outputs) : log_std(size_t(outputs)) {}

    void clear() {
        std::fill_n(measured, NUM_MEASURED, 0.0);
        std::fill(log_std.begin(), log_std.end(), 0.0);
    }
};

struct Chosen {
    float log_prob, entropy;
};

// What a minibatch has in common.
struct Minibatch {
    float weight, mean, scale;  // of a sample; of the advantages
};

// One sample's categorical distributions. Leaves in `scratch` the gradients of log_prob, then of entropy, by the logits.
inline Chosen categorical(const Climb& climb, int64_t sample, const float* logits, float* scratch) {
    const uint8_t* legal = climb.action_mask ? climb.action_mask + sample * climb.network.outputs : nullptr;
    const auto* actions = static_cast<const int64_t*>(climb.policy_action) + sample * climb.network.components;
    float *d_log_prob = scratch, *d_entropy = scratch + climb.network.outputs;
    Chosen chosen{0.0f, 0.0f};
    for (int64_t c = 0; c < climb.network.components; ++c) {
        const int64_t first = climb.network.first_choices[c];
        const int64_t end = c + 1 < climb.network.components ? climb.network.first_choices[c + 1] : climb.network.outputs;
        const auto logit = [&](int64_t j) { return legal && !legal[j] ? LOWEST : logits[j]; };
        float highest = logit(first);
        for (int64_t j = first + 1; j < end; ++j) highest = logit(j) > highest ? logit(j) : highest;
        float total = 0.0f;
        for (int64_t j = first; j < end; ++j) total += d_log_prob[j] = std::exp(logit(j) - highest);
        const float log_total = std::log(total);
        const int64_t action = first + actions[c] - climb.network.lows[c];
        float negative = 0.0f;
        for (int64_t j = first; j < end; ++j) {
            const float log_prob = logit(j) - highest - log_total, prob = d_log_prob[j] / total;
            if (j == action) chosen.log_prob += log_prob;
            negative += d_entropy[j] = prob * log_prob;
            d_log_prob[j] = (j == action ? 1.0f : 0.0f) - prob;
        }
        chosen.entropy -= negative;
        for (int64_t j = first; j < end; ++j) {
            const float prob = (j == action ? 1.0f : 0.0f) - d_log_prob[j];
            d_entropy[j] = prob * negative - d_entropy[j];
            if (legal && !legal[j]) d_log_prob[j] = d_entropy[j] = 0.0f;
        }
    }
    return chosen;
}

// One sample's normals. Leaves in `scratch` the gradients of log_prob by means, then by the logarithms of deviations.
inline Chosen gaussian(const Climb& climb, const float* log_std, int64_t sample, const float* means, float* scratch) {
    const auto* actions = static_cast<const float*>(climb.policy_action) + sample * climb.network.outputs;
    Chosen chosen{0.0f, 0.0f};
    for (int64_t j = 0; j < climb.network.outputs; ++j) {
        const float inverse = std::exp(-log_std[j]), deviation = (actions[j] - means[j]) * inverse;
        chosen.log_prob += -0.5f * deviation * deviation - log_std[j] - float(LOG_SQRT_2PI);
        chosen.entropy += log_std[j] + float(0.5 + LOG_SQRT_2PI);
        scratch[j] = deviation * inverse;
        scratch[climb.network.outputs + j] = deviation * deviation - 1.0f;
    }
    return chosen;
}

// The derivative of the value loss by one value; adds to the loss.
inline float value_pull(const Climb& climb, float value, float old_value, float target, double& loss) {
    float error = value - target, square = error * error;
    const float bound = climb.now->vf_clip_eps, moved = value - old_value;
    if (std::fabs(moved) > bound) {
        const float clipped = old_value + (moved > 0.0f ? bound : -bound) - target;
        if (clipped * clipped > square) {
            square = clipped * clipped;
            error = 0.0f;
        }
    }
    loss += 0.5 * square;
    return error;
}

inline void objective(const Climb& climb, const Plan& plan, const Minibatch& batch, int64_t rows,
                      const uint32_t* order, Tile& tile, float* scratch, Sums& sums) {
    const int64_t column = padded(climb.network.outputs);
    const float* log_std = climb.parameters + plan.log_std;
    const float eps = climb.now->clip_eps, bonus = climb.now->ent_coef * batch.weight;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t sample = order[row];
        float* outputs = tile.outputs.data() + row * column;
        const Chosen chosen = climb.network.is_gaussian ? gaussian(climb, log_std, sample, outputs, scratch)
                                                : categorical(climb, sample, outputs, scratch);
        const float log_ratio = chosen.log_prob - climb.log_prob[sample], ratio = std::exp(log_ratio);
        const float raw = climb.advantages[sample], advantage = (raw - batch.mean) * batch.scale;
        const float bounded = ratio > 1.0f + eps ? 1.0f + eps : ratio < 1.0f - eps ? 1.0f - eps : ratio;
        const float plain = ratio * advantage, clipped = bounded * advantage;
        // What is not a number compares with nothing, and so is kept.
        const bool is_clipped = clipped < plain;
        const float pull = is_clipped ? 0.0f : -plain * batch.weight;
        for (int64_t j = 0; j < climb.network.outputs; ++j) {
            outputs[j] = pull * scratch[j];
            if (climb.network.is_gaussian) sums.log_std[size_t(j)] += pull * scratch[climb.network.outputs + j];
            else outputs[j] -= bonus * scratch[climb.network.outputs + j];
        }
        float* value = tile.values.data() + row * LANES;
        const float old_value = climb.value[sample];
        *value = climb.now->vf_coef * batch.weight *
                 value_pull(climb, *value, old_value, raw + old_value, sums.measured[VALUE_LOSS]);
        sums.measured[POLICY_LOSS] -= is_clipped ? clipped : plain;
        sums.measured[ENTROPY] += chosen.entropy;
        sums.measured[APPROX_KL] += ratio - 1.0f - log_ratio;
        sums.measured[CLIP_FRAC] += std::fabs(ratio - 1.0f) > eps ? 1.0 : 0.0;
    }
}

}  // namespace operant
