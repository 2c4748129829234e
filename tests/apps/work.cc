// THREADS CALLS, as static_work.c.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace work {

struct State {
    uint64_t memory;
    uint64_t step(uint64_t x);
    uint64_t step(uint64_t x, const char *why);
};

__attribute__((noipa)) uint64_t State::step(uint64_t x)
{
    memory = (memory ^ x) * 0x9e3779b97f4a7c15;
    return (x << 7 | x >> 57) + memory;
}

__attribute__((noipa)) uint64_t State::step(uint64_t x, const char *why)
{
    return step(x) + why[0];
}

} // namespace work

int main(int, char **argv)
{
    int count = atoi(argv[1]);
    long calls = atol(argv[2]);
    std::vector<std::thread> threads;
    std::vector<uint64_t> results(count);
    for (int i = 0; i < count; i++)
        threads.emplace_back([&results, i, calls] {
            work::State state{uint64_t(i) + 1};
            uint64_t x = ~state.memory;
            for (long k = 0; k < calls; k++)
                x = state.step(x);
            results[i] = state.step(x, "end");
        });
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) {
        threads[i].join();
        sum += results[i];
    }
    printf("sum %llu\n", (unsigned long long)sum);
}
