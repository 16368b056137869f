// What the source of a CudaEnvironment may use: CUDA's names where the compiler is not CUDA's, and random streams.
#pragma once

#ifdef __CUDACC_RTC__
// NVRTC has no standard headers.
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
#else
// Those of C, which leave their functions of floats in the global namespace, as CUDA has them.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#endif

#ifndef __CUDACC__
#define __device__
#define __host__
#define __constant__
#define __restrict__ __restrict
#define __forceinline__ inline
#define __noinline__
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned int min(unsigned int a, unsigned int b) { return a < b ? a : b; }
inline unsigned int max(unsigned int a, unsigned int b) { return a < b ? b : a; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline int __popc(unsigned int bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(bits) : 32; }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __popcll(uint64_t bits) { return __builtin_popcountll(bits); }
inline int __clzll(int64_t bits) { return bits ? __builtin_clzll(bits) : 64; }
inline int __ffsll(int64_t bits) { return __builtin_ffsll(bits); }
inline unsigned int __umulhi(unsigned int a, unsigned int b) { return (uint64_t)a * b >> 32; }
#endif

// The key and counter of one random stream. There is no generator state: draw number i is a pure function of these.
struct Rng {
    int64_t seed;
    int32_t env_id;
    int32_t episode;
    int32_t step;
    uint32_t stream;
};

namespace operant {

constexpr uint32_t RESET_STREAM = 0u << 28, STEP_STREAM = 1u << 28, POLICY_STREAM = 2u << 28, SHUFFLE_STREAM = 3u << 28;
constexpr uint32_t PARAMS_STREAM = 4u << 28;

#ifdef __CUDACC__
__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
#else
inline float infinity() { return __builtin_huge_valf(); }
#endif

struct Words {
    uint32_t word[4];
};

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
__device__ __forceinline__ Words philox(const Rng& rng, uint32_t block) {
    uint32_t c0 = rng.env_id, c1 = rng.episode, c2 = rng.step, c3 = rng.stream + block;
    uint32_t key0 = (uint32_t)rng.seed, key1 = (uint32_t)((uint64_t)rng.seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t low = (uint64_t)0xD2511F53u * c0, high = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t x0 = (uint32_t)(high >> 32) ^ c1 ^ key0, x2 = (uint32_t)(low >> 32) ^ c3 ^ key1;
        c0 = x0, c1 = (uint32_t)high, c2 = x2, c3 = (uint32_t)low;
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

__device__ __forceinline__ uint32_t word(const Rng& rng, uint32_t i) {
    const Words words = philox(rng, i / 4);
    // Not an index: registers have none.
    return i % 4 == 0 ? words.word[0] : i % 4 == 1 ? words.word[1] : i % 4 == 2 ? words.word[2] : words.word[3];
}

// The upper 24 bits fill a float exactly: multiples of 2^-24 in [0, 1), equal on every backend.
__device__ __forceinline__ float unit(uint32_t word) { return (float)(int32_t)(word >> 8) * 5.9604644775390625e-8f; }

}  // namespace operant

// `uniform` and `integers` with the same i read the same word: give each draw of a function its own number i >= 0.

// Draw a number uniform on [low, high).
__device__ __forceinline__ float uniform(const Rng& rng, int i, float low = 0.0f, float high = 1.0f) {
    return operant::unit(operant::word(rng, i)) * (high - low) + low;
}

// Draw an integer uniform on {low, ..., high - 1}.
__device__ __forceinline__ int32_t integers(const Rng& rng, int i, int32_t low, int32_t high) {
    return low + (int32_t)__umulhi(operant::word(rng, i), (uint32_t)(high - low));
}

// Draw from the standard normal distribution (Box and Muller, 1958); independent of `uniform` and `integers`.
__device__ __forceinline__ float normal(const Rng& rng, int i) {
    const operant::Words words = operant::philox(rng, (1u << 27) + i / 4);
    const bool is_first = i % 4 < 2;
    const float radius = operant::unit(is_first ? words.word[0] : words.word[2]);
    const float angle = operant::unit(is_first ? words.word[1] : words.word[3]) * 6.283185307179586f;
    // 1 - u lies in (0, 1], where the logarithm is finite.
    const float length = sqrtf(-2.0f * logf(1.0f - radius));
    return length * (i % 2 == 0 ? cosf(angle) : sinf(angle));
}
