// The gradient steps of an iteration of PPO on a CPU.
//
// A minibatch is cut into slots, whatever the number of threads: a slot's tiles are taken in order, and slots are summed in
// order, so that equal seeds give equal bits. Slots are what threads share; the caller's does the rest, which is little.
// The reference is `operant_gpu.models.ppo.update`.

#pragma once

#include <algorithm>
#include <optional>

#include "objective.hpp"
#include "shuffle.hpp"
#include "team.hpp"

namespace operant {

// A slot's memory for gradients has to be worth it.
constexpr int64_t TILES_PER_SLOT = 2, MAX_SLOTS = 16;
constexpr float BETA1 = 0.9f, BETA2 = 0.999f, ADAM_EPS = 1e-5f;

// What one slot works in.
struct Slot {
    Tile tile;
    Floats gradients;
    std::vector<float> scratch;
    Sums sums;

    Slot(const Climb& climb, const Plan& plan)
        : tile(climb.network, plan), gradients(plan.size),
          scratch(size_t(2 * climb.network.outputs)), sums(climb.network.outputs) {}
};

class Learner {
public:
    explicit Learner(const Climb& climb)
        : climb(climb), plan(climb.network), weights(plan.size), order(size_t(climb.samples)) {
        const int64_t tiles = (climb.samples / climb.minibatches + TILE) / TILE;
        const int64_t number = std::clamp<int64_t>(tiles / TILES_PER_SLOT, 1, MAX_SLOTS);
        for (int64_t i = 0; i < number; ++i) slots.emplace_back(climb, plan);
        const int64_t others = std::min(climb.threads, number) - 1;
        team.emplace(others, int32_t(number), [this](int32_t slot) { fill(slot); });
    }

    Learner(const Learner&) = delete;

    void run() {
        for (int64_t step = climb.first_step; step < climb.last_step; ++step) {
            if (!(climb.status[step] & STOPPED)) compute_gradient(step);
            adam_step(step);
        }
    }

    // Write the moments of each minibatch's advantages: their mean, and the sum of squared deviations.
    void advantage_moments(double* moments) {
        for (int64_t step = climb.first_step; step < climb.last_step; ++step, moments += 2) {
            cut(step);
            moments[0] = mean();
            moments[1] = squared_deviations(moments[0]);
        }
    }

    // Write a step's gradient and what it measures.
    void compute_gradient(int64_t step) {
        begin(step);
        team->round();
        sum();
        pack();
        for (int j = 0; j < GRAD_NORM; ++j) measured()[j] = float(slots[0].sums.measured[j] / double(count));
    }

    // Take Adam's step with the gradient that is written, unless something forbids it.
    void adam_step(int64_t step) {
        if (climb.status[step] & STOPPED)
            climb.status[step + 1] = climb.status[step];
        else
            finish(step);
    }

private:
    const Climb& climb;
    const Plan plan;
    Floats weights;
    std::vector<uint32_t> order;
    std::vector<Slot> slots;
    std::optional<Team> team;
    Minibatch batch{};
    int64_t start = 0, count = 0, shuffled = -1;

    float* measured() const { return climb.gradient + climb.parameter_count; }

    // Find a step's samples, as torch.tensor_split has them.
    void cut(int64_t step) {
        const int64_t share = climb.samples / climb.minibatches, more = climb.samples % climb.minibatches;
        const int64_t number = step % climb.minibatches, epoch = step / climb.minibatches;
        if (epoch != shuffled) shuffle(climb.seed, climb.iteration, epoch, climb.rank, climb.samples, order.data());
        shuffled = epoch;
        start = number * share + std::min(number, more);
        count = share + (number < more);
    }

    double mean() const {
        double sum = 0.0;
        for (int64_t i = 0; i < count; ++i) sum += climb.advantages[order[size_t(start + i)]];
        return sum / double(count);
    }

    double squared_deviations(double mean) const {
        double sum = 0.0;
        for (int64_t i = 0; i < count; ++i) {
            const double deviation = climb.advantages[order[size_t(start + i)]] - mean;
            sum += deviation * deviation;
        }
        return sum;
    }

    // Find a step's samples, and how their advantages are normalized.
    void begin(int64_t step) {
        cut(step);
        batch = {1.0f / float(count), 0.0f, 1.0f};
        if (climb.normalizes_advantages) {
            const double* given = climb.moments ? climb.moments + 2 * step : nullptr;
            const double mean = given ? given[0] : this->mean();
            const double variance = given ? given[1] : squared_deviations(mean) / double(count - 1);
            batch.mean = float(mean);
            batch.scale = float(1.0 / (std::sqrt(variance) + 1e-8));
        }
        unpack(plan, climb.parameters, weights.data());
    }

    // Take the tiles of the minibatch that are a slot's.
    void fill(int64_t number) {
        Slot& slot = slots[size_t(number)];
        const int64_t stride = int64_t(slots.size()) * TILE;
        std::fill_n(slot.gradients.data(), plan.size, 0.0f);
        slot.sums.clear();
        for (int64_t first = number * TILE; first < count; first += stride) {
            const int64_t rows = std::min(TILE, count - first);
            const uint32_t* samples = order.data() + start + first;
            for (int64_t i = 0; i < rows; ++i)
                observe(climb.network, climb.obs_kind, climb.obs, samples[i] * obs_size(climb.network), 1,
                        slot.tile.observations.data() + i * padded(climb.network.inputs));
            forward(climb.network, plan, weights.data(), rows, slot.tile);
            objective(climb, plan, batch, rows, samples, slot.tile, slot.scratch.data(), slot.sums);
            backward(climb.network, plan, weights.data(), rows, slot.tile, slot.gradients.data());
        }
    }

    void sum() {
        for (size_t i = 1; i < slots.size(); ++i) {
            float *total = slots[0].gradients.data(), *other = slots[i].gradients.data();
            for (int64_t k = 0; k < plan.size; ++k) total[k] += other[k];
            for (int j = 0; j < NUM_MEASURED; ++j) slots[0].sums.measured[j] += slots[i].sums.measured[j];
            for (size_t j = 0; j < slots[0].sums.log_std.size(); ++j)
                slots[0].sums.log_std[j] += slots[i].sums.log_std[j];
        }
    }

    void finish(int64_t step) {
        const float norm = gradient_norm(climb.norms + step * climb.tensors);
        float* measured = climb.measured + step * NUM_MEASURED;
        std::copy_n(this->measured(), int(GRAD_NORM), measured);
        measured[GRAD_NORM] = norm;
        bool is_sound = std::isfinite(norm);
        for (int j : {POLICY_LOSS, VALUE_LOSS, ENTROPY}) is_sound &= bool(std::isfinite(measured[j]));
        int32_t status = climb.status[step];
        if (!is_sound) status |= FAULTY;
        if (measured[APPROX_KL] > KL_MARGIN * climb.now->target_kl) status |= STOPPED;
        climb.status[step + 1] = status;
        if (status == 0) adam(1.0f / std::max(1.0f, (norm + 1e-6f) / climb.now->max_grad_norm));
    }

    // Do something with the first parameter and the size of each tensor, in their order.
    template <class Work> void each_tensor(const Work& work) const {
        int64_t tensor = 0;
        plan.each_layer([&](const Layer& layer) {
            work(tensor++, layer.weight, layer.width * layer.inputs);
            work(tensor++, layer.bias, layer.width);
        });
        if (climb.network.is_gaussian) work(tensor++, plan.log_std, climb.network.outputs);
    }

    // Take the gradients from the padded memory.
    void pack() {
        const float* padded_ = slots[0].gradients.data();
        plan.each_layer([&](const Layer& layer) {
            for (int64_t n = 0; n < layer.width; ++n)
                std::copy_n(padded_ + layer.rows + n * layer.row(), layer.inputs,
                            climb.gradient + layer.weight + n * layer.inputs);
            std::copy_n(padded_ + layer.padded_bias, layer.width, climb.gradient + layer.bias);
        });
        if (climb.network.is_gaussian)
            // The entropy of normals grows by as much as the logarithms do.
            for (int64_t j = 0; j < climb.network.outputs; ++j)
                climb.gradient[plan.log_std + j] = float(slots[0].sums.log_std[size_t(j)] - climb.now->ent_coef);
        each_tensor([&](int64_t tensor, int64_t first, int64_t size) {
            if (!climb.trainable[tensor]) std::fill_n(climb.gradient + first, size, 0.0f);
        });
    }

    // Return the gradient's norm, and write that of each tensor.
    float gradient_norm(float* norms) const {
        double total = 0.0;
        each_tensor([&](int64_t tensor, int64_t first, int64_t size) {
            double squares = 0.0;
            for (int64_t k = first; k < first + size; ++k) squares += double(climb.gradient[k]) * climb.gradient[k];
            norms[tensor] = float(std::sqrt(squares));
            total += squares;
        });
        return float(std::sqrt(total));
    }

    void adam(float scale) {
        const double number = *climb.count += 1.0f;
        const float correction = float(std::sqrt(1.0 - std::pow(double(BETA2), number)));
        const float rate = float(double(climb.now->lr) / (1.0 - std::pow(double(BETA1), number)));
        each_tensor([&](int64_t tensor, int64_t first, int64_t size) {
            if (!climb.trainable[tensor]) return;
            for (int64_t k = first; k < first + size; ++k) {
                const float g = climb.gradient[k] * scale;
                const float mean = climb.means[k] = BETA1 * climb.means[k] + (1.0f - BETA1) * g;
                const float square = climb.squares[k] = BETA2 * climb.squares[k] + (1.0f - BETA2) * g * g;
                climb.parameters[k] -= rate * mean / (std::sqrt(square) / correction + ADAM_EPS);
            }
        });
    }
};

}  // namespace operant
