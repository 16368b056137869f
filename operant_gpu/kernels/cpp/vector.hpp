// Vectors of 16 floats, which compilers split where a processor has narrower ones, and the functions networks need.

#pragma once

#include <cstdint>
#include <cstring>

namespace operant {

constexpr int64_t LANES = 16;
typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t IntLanes __attribute__((vector_size(64)));

// How many floats a row of so many takes, so that each begins a vector.
inline int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

inline Lanes load(const float* at) {
    Lanes lanes;
    std::memcpy(&lanes, at, sizeof lanes);
    return lanes;
}

inline void store(float* at, Lanes lanes) { std::memcpy(at, &lanes, sizeof lanes); }

inline Lanes filled(float value) { return Lanes{} + value; }

// e^x - 1 of numbers in [-87, 88], within some units of the last place also where that is near 0: 2^n e^r - 1 with
// |r| <= ln(2) / 2, and e^r - 1 by its series. What is not a number stays so.
inline Lanes expm1(Lanes x) {
    // Beyond 2^23 a float has no fraction left: adding such a number rounds to the nearest integer.
    const Lanes magic = filled(12582912.0f);
    const Lanes shifted = x * 1.44269504f + magic;
    const Lanes n = shifted - magic;
    // ln(2) in two parts, the first of few bits, so that the product with n is exact.
    Lanes r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Lanes p = filled(1.0f / 5040.0f);
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r;
    const Lanes power = (Lanes)((IntLanes)filled(1.0f) + ((IntLanes)shifted << 23));
    return power * p + (power - 1.0f);
}

inline Lanes tanh(Lanes x) {
    // Beyond 9 it is 1 to the last place; what is not a number compares with nothing.
    x = x > 9.0f ? filled(9.0f) : x;
    x = x < -9.0f ? filled(-9.0f) : x;
    const Lanes grown = expm1(x + x);
    return grown / (grown + 2.0f);
}

inline Lanes relu(Lanes x) { return x < 0.0f ? Lanes{} : x; }

}  // namespace operant
