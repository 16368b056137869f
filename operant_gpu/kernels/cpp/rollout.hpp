// Rollouts in which a network acts: it sees, draws, the environments' own kernel steps, and values are bootstrapped, for
// all steps of some environments before the next ones. The reference is `operant_gpu.backends.stepwise`.

#pragma once

#include <algorithm>

#include "../cuda/environment.cuh"
#include "../cuda/sampling.cuh"
#include "network.hpp"

namespace operant {

// Environments whose columns and activations stay in the caches for all steps: a block of numba's.
constexpr int64_t CHUNK = 512;

// How numba's kernels and those of CUDA C++ are called; the former work in memory of the thread's own.
using NumbaKernel = void (*)(const void*, const int64_t*, void*, int64_t, int64_t, int64_t);
using CppKernel = void (*)(const void*, const int64_t*, int64_t, int64_t, int64_t);

// Plays environments with a network, in memory of its own.
class Player {
public:
    Player(const Rollout& call, void* workspace)
        : call(call), network(call.network), workspace(workspace), plan(network), weights(plan.size),
          tile(network, plan), words(call.call, call.call + call.call_size) {
        unpack(plan, network.parameters, weights.data());
    }

    // Take all steps of the environments from `first` up to `last`.
    void play(int64_t first, int64_t last) {
        std::copy_n(call.call, call.call_size, words.data());
        for (int64_t step = 0; step < call.num_steps; ++step) {
            for (int64_t env = first; env < last; env += TILE) act(step, env, std::min(TILE, last - env));
            advance(first, last);
            if (call.final_value.data) bootstrap(step, first, last);
            for (int64_t i = 0; i < call.num_moved; ++i) words[size_t(call.moved[i])] += call.moves[i];
        }
    }

private:
    const Rollout& call;
    const Network& network;
    void* const workspace;
    const Plan plan;
    Floats weights;
    Tile tile;
    std::vector<int64_t> words;

    void advance(int64_t first, int64_t last) {
        if (workspace)
            reinterpret_cast<NumbaKernel>(call.kernel)(call.batch, words.data(), workspace, first, last, 1);
        else
            reinterpret_cast<CppKernel>(call.kernel)(call.batch, words.data(), first, last, 1);
    }

    template <class Number> static Number* at_step(const Rows& rows, int64_t step) {
        return reinterpret_cast<Number*>(static_cast<char*>(rows.data) + step * rows.step);
    }

    float* observation(int64_t row) { return tile.observations.data() + row * padded(network.inputs); }

    // Choose the actions of a tile of environments.
    void act(int64_t step, int64_t first, int64_t rows) {
        for (int64_t i = 0; i < rows; ++i)
            observe(network, call.obs.kind, call.obs.data, (first + i) * call.obs.row, call.obs.column,
                    observation(i));
        forward(network, plan, weights.data(), rows, tile);
        float* values = call.value.data ? at_step<float>(call.value, step) : nullptr;
        float* log_probs = call.log_prob.data ? at_step<float>(call.log_prob, step) : nullptr;
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t env = first + i;
            const float* outputs = tile.outputs.data() + i * padded(network.outputs);
            const float log_prob = network.is_gaussian ? gaussian(step, env, outputs) : categorical(step, env, outputs);
            if (log_probs) log_probs[env] = log_prob;
            if (values) values[env] = tile.values.data()[i * LANES];
        }
    }

    // The stream of an environment's policy at its present step.
    Rng stream(int64_t env) const {
        const bool is_first = call.restarted && call.restarted[env];
        return {call.seed[env], call.env_id[env], call.episode[env], is_first ? 0 : call.elapsed[env], POLICY_STREAM};
    }

    // Store component number c of an action, if it is wanted.
    template <class Number> void keep(const Rows& actions, int64_t step, int64_t env, int64_t c, Number value) const {
        if (!actions.data) return;
        const int64_t at = env * actions.row + c * actions.column;
        if (actions.kind == INT64) at_step<int64_t>(actions, step)[at] = int64_t(value);
        else if (actions.kind == INT32) at_step<int32_t>(actions, step)[at] = int32_t(value);
        else at_step<float>(actions, step)[at] = float(value);
    }

    float gaussian(int64_t step, int64_t env, const float* means) {
        const float* log_std = network.parameters + plan.log_std;
        auto* taken = static_cast<float*>(call.taken) + env * network.outputs;
        const Rng rng = stream(env);
        float log_prob = 0.0f;
        for (int64_t c = 0; c < network.outputs; ++c) {
            const float drawn = draw_normal(rng, int(c), means[c], log_std[c], log_prob);
            // Rounded, as everywhere: one instruction for both would give another last bit.
            const volatile float scaled = call.radius[c] * drawn;
            taken[c] = clamped(call.center[c] + scaled, call.low[c], call.high[c]);
            keep(call.policy_action, step, env, c, drawn);
            keep(call.action, step, env, c, taken[c]);
        }
        return log_prob;
    }

    float categorical(int64_t step, int64_t env, const float* outputs) {
        const auto* legal = static_cast<const uint8_t*>(call.action_mask.data);
        auto* taken = static_cast<int64_t*>(call.taken) + env * network.components;
        const Rng rng = stream(env);
        float log_prob = 0.0f;
        for (int64_t c = 0; c < network.components; ++c) {
            const int64_t first = network.first_choices[c];
            const int64_t end = c + 1 < network.components ? network.first_choices[c + 1] : network.outputs;
            const auto logit = [&](int64_t j) {
                const int64_t at = env * call.action_mask.row + (first + j) * call.action_mask.column;
                return legal && !legal[at] ? LOWEST : outputs[first + j];
            };
            taken[c] = network.lows[c] + draw_choice(rng, int(c), int(end - first), logit, log_prob);
            keep(call.policy_action, step, env, c, taken[c]);
            keep(call.action, step, env, c, taken[c]);
        }
        return log_prob;
    }

    // Store the values of the states that episodes would have gone on from, for the others 0.
    void bootstrap(int64_t step, int64_t first, int64_t last) {
        const auto *terminated = at_step<uint8_t>(call.terminated, step), *truncated = at_step<uint8_t>(call.truncated, step);
        const void* states = at_step<char>(call.final_obs, step);
        float* values = at_step<float>(call.final_value, step);
        int64_t rows = 0, wanted[TILE];
        const auto evaluate = [&] {
            forward(network, plan, weights.data(), rows, tile, true);
            for (int64_t i = 0; i < rows; ++i) values[wanted[i]] = tile.values.data()[i * LANES];
            rows = 0;
        };
        for (int64_t env = first; env < last; ++env) {
            values[env] = 0.0f;
            const bool is_cut = truncated[env] && !terminated[env];
            const bool goes_on = call.is_last && step + 1 == call.num_steps && !call.ended[env];
            if (!is_cut && !goes_on) continue;
            wanted[rows] = env;
            observe(network, call.final_obs.kind, states, env * call.final_obs.row, call.final_obs.column,
                    observation(rows++));
            if (rows == TILE) evaluate();
        }
        if (rows) evaluate();
    }
};

inline void roll_out(const Rollout& call, void* workspace, int64_t first, int64_t last) {
    Player player(call, workspace);
    for (; first < last; first += CHUNK) player.play(first, std::min(first + CHUNK, last));
}

}  // namespace operant
