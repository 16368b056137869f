// A block of environments during a call: on a GPU one, whose state a thread keeps; on a CPU 64, whose columns a thread goes
// over in loops that a compiler can vectorize.

namespace operant {

constexpr int SAME_STEP = 0, NEXT_STEP = 1, DISABLED = 2;
constexpr int INT64 = 1;

#ifdef __CUDACC__

constexpr int BLOCK = 1;
#define OPERANT_FLATTEN
#define OPERANT_EACH(k, n) for (int k = 0; k < 1; ++k)
// With a bound of 1, nvcc would compute what is rare at each step, and choose: twice the registers.
#define OPERANT_EACH_WHERE(flags, k, n) for (int k = 0; k < (n); ++k) if ((flags)[k])

// The state of a thread's environment.
struct States {
    const Batch& batch;
    int64_t row;
    State state;

    __device__ States(const Batch& batch, int64_t row) : batch(batch), row(row), state(operant::load(batch, row)) {}
    __device__ State& get(int) { return state; }
    __device__ void put(int, const State&) {}
    __device__ void begin(int, const State& fresh) { state = fresh; }
    __device__ void keep() { operant::store(batch, row, state); }
};

#else

constexpr int BLOCK = 64;
// With the author's function in the loop, which is then vectorized if that has no branches.
#define OPERANT_FLATTEN __attribute__((flatten))
#define OPERANT_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define OPERANT_EACH(k, n) OPERANT_PRAGMA(clang loop vectorize(assume_safety)) for (int k = 0, end = (n); k < end; ++k)
#else
#define OPERANT_EACH(k, n) OPERANT_PRAGMA(GCC ivdep) for (int k = 0, end = (n); k < end; ++k)
#endif

// The environments of a block that have a flag, in a list: a branch for each would be mispredicted wherever one has it.
struct Chosen {
    int32_t number[BLOCK];
    int32_t count;

    Chosen(const int32_t* flags, int n) {
        int found = 0;
        for (int k = 0; k < n; ++k) {
            number[found] = k;
            found += flags[k] != 0;
        }
        count = found;
    }
    const int32_t* begin() const { return number; }
    const int32_t* end() const { return number + count; }
};

#define OPERANT_EACH_WHERE(flags, k, n) for (const int k : Chosen(flags, n))

// The states of a block, which stay in their columns.
struct States {
    const Batch& batch;
    int64_t row;

    States(const Batch& batch, int64_t row) : batch(batch), row(row) {}
    State get(int k) const { return operant::load(batch, row + k); }
    void put(int k, const State& state) const { operant::store(batch, row + k, state); }
    void begin(int k, const State& fresh) const { put(k, fresh); }
    void keep() const {}
};

#endif

// A block of environments during a call: `n` of them, from number `row` on.
struct Block {
    const Batch& batch;
    const int64_t row;
    const int n;
    States states;
    // With a cache line, so that no vector lies across two.
    alignas(BLOCK > 1 ? 64 : 8) int64_t seed[BLOCK];
    double episode_return[BLOCK];
    int32_t env_id[BLOCK], episode[BLOCK], elapsed[BLOCK];
    float reward[BLOCK];
    int32_t ended[BLOCK], terminated[BLOCK], truncated[BLOCK], active[BLOCK], done[BLOCK];
    Action action[BLOCK];

    __device__ Block(const Batch& batch, int64_t row, int n) : batch(batch), row(row), n(n), states(batch, row) {
        OPERANT_EACH(k, n) {
            seed[k] = batch.seed[row + k];
            env_id[k] = batch.env_id[row + k];
            episode[k] = batch.episode[row + k];
            elapsed[k] = batch.elapsed[row + k];
            episode_return[k] = batch.episode_return[row + k];
            ended[k] = batch.ended[row + k];
        }
    }

    __device__ Rng rng(int k, uint32_t stream) const { return Rng{seed[k], env_id[k], episode[k], elapsed[k], stream}; }

    // What is in memory is read where a function needs it.
    __device__ Params params(int k) const { return params_of(batch, row + k); }

    __device__ bool any(const int32_t* flags) const {
        int32_t found = 0;
        OPERANT_EACH(k, n) found |= flags[k];
        return found != 0;
    }

    // Read the clock, the return and the metrics of an episode that ended as they begin.
    __device__ void begin_clock() {
        OPERANT_EACH(k, n) {
            elapsed[k] = ended[k] ? 0 : elapsed[k];
            episode_return[k] = ended[k] ? 0.0 : episode_return[k];
        }
        if (HAS_METRICS) OPERANT_EACH_WHERE(ended, k, n) begin_metrics(batch, row + k);
    }

    __device__ void begin_episodes(const int32_t* flags) {
        OPERANT_EACH_WHERE(flags, k, n) {
            // A word of the streams, which goes on beyond what an int32 counts.
            episode[k] = (int32_t)((uint32_t)episode[k] + 1);
            draw_params(batch, row + k, Rng{seed[k], env_id[k], episode[k], 0, PARAMS_STREAM});
            const Rng rng = {seed[k], env_id[k], episode[k], 0, RESET_STREAM};
            states.begin(k, ::reset(rng, params(k) OPERANT_TABLES(batch, row + k)));
        }
    }

    __device__ void store_clock() {
        OPERANT_EACH(k, n) {
            batch.episode[row + k] = episode[k];
            batch.elapsed[row + k] = elapsed[k];
            batch.episode_return[row + k] = episode_return[k];
            batch.ended[row + k] = ended[k] != 0;
        }
    }
};

__device__ __forceinline__ bool legal(const Block& block, int k, const State& state, int choice) {
    return is_legal(block.batch, block.row + k, state, choice);
}

}  // namespace operant
