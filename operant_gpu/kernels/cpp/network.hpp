// A network's weights as products take them, and its way forward and back over a tile of samples.

#pragma once

#include <algorithm>
#include <vector>

#include "product.hpp"

namespace operant {

// Samples that go through the network together: their activations stay in the caches.
constexpr int64_t TILE = 64;

// Memory that begins with a cache line, of zeros.
class Floats {
public:
    explicit Floats(int64_t size) : memory(size_t(size) + LANES) {
        const auto address = reinterpret_cast<uintptr_t>(memory.data());
        begin = memory.data() + (64 - address % 64) % 64 / sizeof(float);
    }
    Floats(Floats&&) = default;
    float* data() const { return begin; }

private:
    std::vector<float> memory;
    float* begin;
};

// A layer: where its numbers are among the parameters, and in the padded memory of weights and gradients. There a weight
// (width, inputs) has padded rows, and its transpose, for the way forward, likewise.
struct Layer {
    int64_t inputs, width, weight, bias;           // among the parameters
    int64_t rows, transposed, padded_bias;         // in the padded memory
    int64_t row() const { return padded(inputs); }
    int64_t column() const { return padded(width); }
};

// Layers of a trunk and the heads on it: outputs, value, or both.
struct Branch {
    Layer trunk[MAX_LAYERS], actor, critic;
    int64_t depth;
    bool has_actor, has_critic;
};

struct Plan {
    Branch branches[2];
    int64_t count, size, log_std;  // size of the padded memory

    explicit Plan(const Network& network) : count(network.is_shared ? 1 : 2), size(0) {
        int64_t at = 0;
        for (int64_t i = 0; i < count; ++i) {
            Branch& branch = branches[i];
            branch.depth = network.depth;
            branch.has_actor = i == 0;
            branch.has_critic = i == count - 1;
            for (int64_t l = 0; l < network.depth; ++l)
                branch.trunk[l] = layer(l ? network.widths[l - 1] : network.inputs, network.widths[l], at);
        }
        const int64_t features = network.depth ? network.widths[network.depth - 1] : network.inputs;
        branches[0].actor = layer(features, network.outputs, at);
        branches[count - 1].critic = layer(features, 1, at);
        log_std = at;
    }

    template <class Function> void each_layer(Function function) const {
        for (int64_t i = 0; i < count; ++i)
            for (int64_t l = 0; l < branches[i].depth; ++l) function(branches[i].trunk[l]);
        function(branches[0].actor);
        function(branches[count - 1].critic);
    }

private:
    Layer layer(int64_t inputs, int64_t width, int64_t& at) {
        Layer made{inputs, width, at, at + width * inputs, size, 0, 0};
        at += width * inputs + width;
        made.transposed = made.rows + width * made.row();
        made.padded_bias = made.transposed + inputs * made.column();
        size = made.padded_bias + made.column();
        return made;
    }
};

// Copy the parameters to where products read them.
inline void unpack(const Plan& plan, const float* parameters, float* weights) {
    plan.each_layer([&](const Layer& layer) {
        for (int64_t n = 0; n < layer.width; ++n)
            for (int64_t k = 0; k < layer.inputs; ++k) {
                const float value = parameters[layer.weight + n * layer.inputs + k];
                weights[layer.rows + n * layer.row() + k] = value;
                weights[layer.transposed + k * layer.column() + n] = value;
            }
        for (int64_t n = 0; n < layer.width; ++n) weights[layer.padded_bias + n] = parameters[layer.bias + n];
    });
}

// Activations of a tile, and the gradients by them: rows of samples.
struct Tile {
    std::vector<Floats> layers[2];
    Floats observations, outputs, values, back[2];

    Tile(const Network& network, const Plan& plan)
        : observations(TILE * padded(network.inputs)), outputs(TILE * padded(network.outputs)), values(TILE * LANES),
          back{widest(network), widest(network)} {
        for (int64_t i = 0; i < plan.count; ++i)
            for (int64_t l = 0; l < plan.branches[i].depth; ++l)
                layers[i].emplace_back(TILE * plan.branches[i].trunk[l].column());
    }

private:
    static Floats widest(const Network& network) {
        return Floats(TILE * padded(*std::max_element(network.widths, network.widths + MAX_LAYERS)));
    }
};

template <class Number>
inline void observe(const Network& network, const Number* obs, int64_t column, float* x) {
    if (network.is_one_hot) {
        const int64_t place = int64_t(*obs) - network.obs_start;
        for (int64_t k = 0; k < network.inputs; ++k) x[k] = k == place ? 1.0f : 0.0f;
        return;
    }
    for (int64_t k = 0; k < network.inputs; ++k) {
        x[k] = float(obs[k * column]);
        if (network.shift) {
            const float scaled = (x[k] - network.shift[k]) * network.scale[k], bound = float(network.clip);
            x[k] = scaled > bound ? bound : scaled < -bound ? -bound : scaled;
        }
    }
}

// How many numbers an observation has in memory.
inline int64_t obs_size(const Network& network) { return network.is_one_hot ? 1 : network.inputs; }

// Bring one observation into a tile.
inline void observe(const Network& network, Kind kind, const void* obs, int64_t at, int64_t column, float* x) {
    switch (kind) {
    case UINT8: return observe(network, static_cast<const uint8_t*>(obs) + at, column, x);
    case INT8: return observe(network, static_cast<const int8_t*>(obs) + at, column, x);
    case INT32: return observe(network, static_cast<const int32_t*>(obs) + at, column, x);
    case INT64: return observe(network, static_cast<const int64_t*>(obs) + at, column, x);
    default: return observe(network, static_cast<const float*>(obs) + at, column, x);
    }
}

inline void forward_layer(const Layer& layer, const float* weights, int64_t rows, const float* x, float* y) {
    product<false>(rows, layer.inputs, layer.column(), {x, layer.row(), 1}, weights + layer.transposed,
                   layer.column(), weights + layer.padded_bias, y, layer.column());
}

inline void activate(bool is_tanh, int64_t size, float* y) {
    if (is_tanh)
        for (int64_t i = 0; i < size; i += LANES) store(y + i, tanh(load(y + i)));
    else
        for (int64_t i = 0; i < size; i += LANES) store(y + i, relu(load(y + i)));
}

// Turn the gradient by what an activation gave into that by what it was given.
inline void deactivate(bool is_tanh, int64_t size, const float* y, float* d) {
    for (int64_t i = 0; i < size; i += LANES) {
        const Lanes activated = load(y + i), gradient = load(d + i);
        if (is_tanh) store(d + i, gradient * (1.0f - activated * activated));
        else store(d + i, activated > 0.0f ? gradient : activated * 0.0f);
    }
}

inline void forward(const Network& network, const Plan& plan, const float* weights, int64_t rows, Tile& tile,
                    bool values_alone = false) {
    for (int64_t i = values_alone ? plan.count - 1 : 0; i < plan.count; ++i) {
        const Branch& branch = plan.branches[i];
        const float* x = tile.observations.data();
        for (int64_t l = 0; l < branch.depth; ++l) {
            float* y = tile.layers[i][size_t(l)].data();
            forward_layer(branch.trunk[l], weights, rows, x, y);
            activate(network.is_tanh, rows * branch.trunk[l].column(), y);
            x = y;
        }
        if (branch.has_actor && !values_alone)
            forward_layer(branch.actor, weights, rows, x, tile.outputs.data());
        if (branch.has_critic) forward_layer(branch.critic, weights, rows, x, tile.values.data());
    }
}

// Add a layer's gradient, and give or add that by its inputs if these are wanted.
template <bool ADD>
inline void backward_layer(const Layer& layer, const float* weights, int64_t rows, const float* x, const float* d,
                           float* gradients, float* d_inputs) {
    product<true>(layer.width, rows, layer.row(), {d, 1, layer.column()}, x, layer.row(), nullptr,
                  gradients + layer.rows, layer.row());
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t n = 0; n < layer.column(); n += LANES) {
            float* bias = gradients + layer.padded_bias + n;
            store(bias, load(bias) + load(d + row * layer.column() + n));
        }
    if (d_inputs)
        product<ADD>(rows, layer.width, layer.row(), {d, layer.column(), 1}, weights + layer.rows, layer.row(),
                     nullptr, d_inputs, layer.row());
}

// Add the gradients of a tile's samples, from those by outputs and values, which stand in their place.
inline void backward(const Network& network, const Plan& plan, const float* weights, int64_t rows, Tile& tile,
                     float* gradients) {
    for (int64_t i = 0; i < plan.count; ++i) {
        const Branch& branch = plan.branches[i];
        float *d = tile.back[0].data(), *next = tile.back[1].data();
        const auto input_of = [&](int64_t l) {
            return l ? tile.layers[i][size_t(l - 1)].data() : tile.observations.data();
        };
        const float* features = input_of(branch.depth);
        float* d_features = branch.depth ? d : nullptr;
        if (branch.has_actor)
            backward_layer<false>(branch.actor, weights, rows, features, tile.outputs.data(), gradients, d_features);
        if (branch.has_critic && branch.has_actor)
            backward_layer<true>(branch.critic, weights, rows, features, tile.values.data(), gradients, d_features);
        else if (branch.has_critic)
            backward_layer<false>(branch.critic, weights, rows, features, tile.values.data(), gradients, d_features);
        for (int64_t l = branch.depth - 1; l >= 0; --l) {
            const Layer& layer = branch.trunk[l];
            deactivate(network.is_tanh, rows * layer.column(), tile.layers[i][size_t(l)].data(), d);
            backward_layer<false>(layer, weights, rows, input_of(l), d, gradients, l ? next : nullptr);
            std::swap(d, next);
        }
    }
}

}  // namespace operant
