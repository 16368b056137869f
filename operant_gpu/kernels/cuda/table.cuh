// Tables of environments that have them.
#pragma once

// Numbers that all environments share, of up to three axes: `table(i)`, `table(i, j)`, `table(i, j, k)`. An index beyond
// the table reads the number nearest to it.
template <class T, int64_t A, int64_t B = 0, int64_t C = 0>
struct Table {
    const T* first;
#ifdef OPERANT_NOTES
    // Of the environment: where such indices are noted, and what tells this table's from others.
    int64_t* outside;
    int64_t code;
#endif

    template <int64_t SIZE>
    __device__ __forceinline__ int64_t place(int64_t index, int axis) const {
        const int64_t inside = index < 0 ? 0 : index >= SIZE ? SIZE - 1 : index;
#ifdef OPERANT_NOTES
        constexpr int64_t FARTHEST = (1ll << 57) - 1;
        const int64_t far = index < -FARTHEST ? -FARTHEST : index > FARTHEST ? FARTHEST : index;
        if (inside != index) *outside = far * 64 + code + axis;
#endif
        return inside;
    }
    template <class I>
    __device__ __forceinline__ T operator()(I i) const {
        static_assert(B == 0, "this table has more axes: give an index for each");
        static_assert((I)1.5 == (I)1, "an index of a table must be an integer");
        return first[place<A>(i, 0)];
    }
    template <class I, class J>
    __device__ __forceinline__ T operator()(I i, J j) const {
        static_assert(B > 0 && C == 0, "this table has not two axes: give an index for each");
        static_assert((I)1.5 == (I)1 && (J)1.5 == (J)1, "an index of a table must be an integer");
        return first[place<A>(i, 0) * B + place<B>(j, 1)];
    }
    template <class I, class J, class K>
    __device__ __forceinline__ T operator()(I i, J j, K k) const {
        static_assert(C > 0, "this table has not three axes: give an index for each");
        static_assert((I)1.5 == (I)1 && (J)1.5 == (J)1 && (K)1.5 == (K)1, "an index of a table must be an integer");
        return first[(place<A>(i, 0) * B + place<B>(j, 1)) * C + place<C>(k, 2)];
    }
    __device__ static constexpr int64_t length(int axis = 0) { return axis == 0 ? A : axis == 1 ? B : C; }
};
