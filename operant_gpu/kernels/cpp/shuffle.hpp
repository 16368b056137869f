// The orders of samples: `operant_gpu.kernels.triton.shuffle`, bit for bit.

#pragma once

#include <cstdint>

#include "../cuda/environment.cuh"

namespace operant {

inline uint32_t mixed(uint32_t x) {
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    return x ^ x >> 16;
}

struct Bijection {
    uint32_t keys[12], high, low;

    uint32_t operator()(uint32_t x) const {
        uint32_t left = x >> low, right = x & ((1u << low) - 1);
        for (int i = 0; i < 12; i += 2) {
            left = (left ^ mixed(right ^ keys[i])) & ((1u << high) - 1);
            right = (right ^ mixed(left ^ keys[i + 1])) & ((1u << low) - 1);
        }
        return left << low | right;
    }
};

inline void shuffle(int64_t seed, int64_t iteration, int64_t epoch, int64_t rank, int64_t size, uint32_t* order) {
    const Words words = philox({seed, int32_t(iteration), int32_t(epoch), int32_t(rank), SHUFFLE_STREAM}, 0);
    Bijection send{};
    uint32_t bits = 2;
    while (bits < 32 && (int64_t(1) << bits) < size) ++bits;
    send.low = bits / 2;
    send.high = bits - send.low;
    for (uint32_t i = 0; i < 12; ++i) send.keys[i] = words.word[i % 4] + i * 0x9E3779B9u;
    // Twice: the first loop has no branch, so that it becomes vector instructions.
    for (int64_t i = 0; i < size; ++i) order[i] = send(uint32_t(i));
    for (int64_t i = 0; i < size; ++i)
        while (order[i] >= size) order[i] = send(order[i]);
}

}  // namespace operant
