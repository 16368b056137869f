// Products of small matrices: blocks of rows and vectors that stay in registers for the whole sum.

#pragma once

#include "vector.hpp"

namespace operant {

// A matrix whose element (i, k) is at data[i * row + k * column].
struct Strided {
    const float* data;
    int64_t row, column;
};

template <int ROWS, int VECTORS, bool ADD>
inline void product_block(int64_t inner, Strided a, const float* b, int64_t ldb, const float* bias, float* c,
                          int64_t ldc) {
    Lanes sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) {
            if (ADD) sums[i][j] = load(c + i * ldc + j * LANES);
            else sums[i][j] = bias ? load(bias + j * LANES) : Lanes{};
        }
    for (int64_t k = 0; k < inner; ++k) {
        Lanes row[VECTORS];
        for (int j = 0; j < VECTORS; ++j) row[j] = load(b + k * ldb + j * LANES);
        for (int i = 0; i < ROWS; ++i) {
            const Lanes factor = filled(a.data[i * a.row + k * a.column]);
            for (int j = 0; j < VECTORS; ++j) sums[i][j] += factor * row[j];
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) store(c + i * ldc + j * LANES, sums[i][j]);
}

template <int ROWS, int VECTORS, bool ADD>
inline int64_t product_rows(int64_t first, int64_t rows, int64_t inner, Strided a, const float* b, int64_t ldb,
                            const float* bias, float* c, int64_t ldc) {
    for (; first + ROWS <= rows; first += ROWS) {
        const Strided part{a.data + first * a.row, a.row, a.column};
        product_block<ROWS, VECTORS, ADD>(inner, part, b, ldb, bias, c + first * ldc, ldc);
    }
    return first;
}

template <int VECTORS, bool ADD>
inline void product_columns(int64_t rows, int64_t inner, Strided a, const float* b, int64_t ldb, const float* bias,
                            float* c, int64_t ldc) {
    // As many sums at a time as hide the time that one takes, and have registers.
    constexpr int ROWS = VECTORS == 1 ? 12 : VECTORS == 2 ? 8 : 6;
    int64_t done = product_rows<ROWS, VECTORS, ADD>(0, rows, inner, a, b, ldb, bias, c, ldc);
    done = product_rows<2, VECTORS, ADD>(done, rows, inner, a, b, ldb, bias, c, ldc);
    product_rows<1, VECTORS, ADD>(done, rows, inner, a, b, ldb, bias, c, ldc);
}

// C (rows, columns) = bias + A B, or with ADD C += A B; columns are padded.
template <bool ADD>
inline void product(int64_t rows, int64_t inner, int64_t columns, Strided a, const float* b, int64_t ldb,
                    const float* bias, float* c, int64_t ldc) {
    int64_t j = 0;
    for (; j + 4 * LANES <= columns; j += 4 * LANES)
        product_columns<4, ADD>(rows, inner, a, b + j, ldb, bias ? bias + j : nullptr, c + j, ldc);
    for (; j + 2 * LANES <= columns; j += 2 * LANES)
        product_columns<2, ADD>(rows, inner, a, b + j, ldb, bias ? bias + j : nullptr, c + j, ldc);
    for (; j < columns; j += LANES)
        product_columns<1, ADD>(rows, inner, a, b + j, ldb, bias ? bias + j : nullptr, c + j, ldc);
}

}  // namespace operant
