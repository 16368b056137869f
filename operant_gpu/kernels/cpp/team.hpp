// Threads that share the tasks of one round after another. Tasks are taken, not given out: a thread that the system keeps
// from running delays nobody, since the others do its share.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <system_error>
#include <thread>
#include <vector>

namespace operant {

class Team {
public:
    // In each round `task(number)` is called for all numbers below `tasks`, by the caller's thread and so many others.
    Team(int64_t others, int32_t tasks, std::function<void(int32_t)> task) : tasks(tasks), task(std::move(task)) {
        threads.reserve(size_t(others));
        try {
            for (int64_t i = 0; i < others; ++i) threads.emplace_back([this] { follow(); });
        } catch (const std::system_error&) {
            // The system has no more threads: those that are there do.
        }
    }
    Team(const Team&) = delete;

    ~Team() {
        offered.store(OVER);
        offered.notify_all();
        for (std::thread& thread : threads) thread.join();
    }

    // Return when all tasks of a round are done.
    void round() {
        const int32_t end = offered.load() + tasks;
        offered.store(end);
        offered.notify_all();
        help();
        for (int32_t seen; (seen = done.load()) != end;) wait(done, seen);
    }

private:
    static constexpr int32_t OVER = -1;
    // Some microseconds: what lies between rounds takes not much more, and waking a thread does.
    static constexpr int SPINS = 20'000;

    const int32_t tasks;
    const std::function<void(int32_t)> task;
    // Counted over all rounds.
    std::atomic<int32_t> offered{0}, taken{0}, done{0};
    std::vector<std::thread> threads;

    void follow() {
        for (int32_t seen = 0; seen != OVER; help()) {
            wait(offered, seen);
            seen = offered.load();
        }
    }

    void help() {
        int32_t next = taken.load();
        while (next < offered.load()) {
            if (!taken.compare_exchange_weak(next, next + 1)) continue;
            task(next % tasks);
            // A round is not over before this task is, and so `offered` is still that round's.
            if (done.fetch_add(1) + 1 == offered.load()) done.notify_one();
            next = taken.load();
        }
    }

    static void wait(const std::atomic<int32_t>& number, int32_t seen) {
        for (int i = 0; i < SPINS; ++i)
            if (number.load(std::memory_order_relaxed) != seen) return;
        number.wait(seen);
    }
};

}  // namespace operant
