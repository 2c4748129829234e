/* [RUNS [START]]: the inputs that are kept in tests/fuzz/corpus/NAME/, then so many mutated
 * ones of these and the seeds, the same for the same START.
 * FILE: one input, as it was kept when a run died. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

#define RUNS      20000
#define SEEDS_MAX 64
#define FILE_MAX  (1 << 20)
#define GROWTH    64

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

struct input {
    uint8_t *bytes;
    size_t size;
};

static struct input current;
static uint64_t state;

static void keep_input(void)
{
    char name[] = "/tmp/freezepoint-fuzz-XXXXXX";
    int fd = mkstemp(name);
    if (fd >= 0 && write(fd, current.bytes, current.size) == (ssize_t)current.size)
        fprintf(stderr, "the input is kept in %s\n", name);
}

/* xorshift64. */
static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below ? state % below : 0;
}

static uint8_t odd_byte(void)
{
    static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff, '/', '.', '#', ':'};
    return draw(2) ? odd[draw(sizeof(odd))] : (uint8_t)draw(256);
}

static void cut_or_grow(struct input *input, size_t capacity)
{
    size_t at = draw(input->size + 1);
    if (draw(2)) {
        size_t gone = draw(input->size - at + 1);
        memmove(input->bytes + at, input->bytes + at + gone, input->size - at - gone);
        input->size -= gone;
    } else {
        size_t more = draw(GROWTH);
        more = input->size + more > capacity ? 0 : more;
        memmove(input->bytes + at + more, input->bytes + at, input->size - at);
        memset(input->bytes + at, odd_byte(), more);
        input->size += more;
    }
}

static void mutate(struct input *input, size_t capacity)
{
    for (uint64_t i = draw(4) + 1; i; i--) {
        if (draw(4) == 0)
            cut_or_grow(input, capacity);
        else if (input->size && draw(2))
            input->bytes[draw(input->size)] = odd_byte();
        else if (input->size)
            input->bytes[draw(input->size)] ^= (uint8_t)(1U << draw(8));
    }
}

/* Of its own size, so that a sanitizer sees a read beyond it. */
static void try_input(const struct input *input)
{
    current.size = input->size;
    current.bytes = malloc(input->size ? input->size : 1);
    memcpy(current.bytes, input->bytes, input->size);
    LLVMFuzzerTestOneInput(current.bytes, current.size);
    free(current.bytes);
}

static bool read_input(const char *path, struct input *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    out->bytes = malloc(FILE_MAX);
    ssize_t n = fd < 0 ? -1 : read(fd, out->bytes, FILE_MAX);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        free(out->bytes);
    out->size = n < 0 ? 0 : (size_t)n;
    return n >= 0;
}

/* Sorted: the runs are to be the same everywhere.  The number that there are then. */
static size_t add_corpus(const char *program, struct input *seeds, size_t count)
{
    struct dirent **list;
    char directory[256], path[sizeof(directory) + NAME_MAX + 2];
    const char *name = strstr(program, "fuzz_");
    snprintf(directory, sizeof(directory), "tests/fuzz/corpus/%s", name ? name + 5 : "");
    int files = scandir(directory, &list, NULL, alphasort);
    for (int i = 0; i < files; i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, list[i]->d_name);
        if (list[i]->d_name[0] != '.' && count < SEEDS_MAX && read_input(path, &seeds[count]))
            try_input(&seeds[count++]);
        free(list[i]);
    }
    if (files >= 0)
        free(list);
    return count;
}

static int run_mutated(const char *program, unsigned long runs)
{
    struct input seeds[SEEDS_MAX] = {{0}};
    size_t count = 0, largest = 0;
    while (count < SEEDS_MAX && (seeds[count].bytes = fuzz_seed(count, &seeds[count].size)))
        try_input(&seeds[count++]);
    count = add_corpus(program, seeds, count);
    for (size_t i = 0; i < count; i++)
        largest = seeds[i].size > largest ? seeds[i].size : largest;
    size_t capacity = largest + (size_t)4 * GROWTH;
    for (unsigned long run = 0; run < runs; run++) {
        const struct input *seed = &seeds[draw(count)];
        struct input made = {malloc(capacity), seed->size};
        memcpy(made.bytes, seed->bytes, seed->size);
        mutate(&made, capacity);
        try_input(&made);
        free(made.bytes);
    }
    for (size_t i = 0; i < count; i++)
        free(seeds[i].bytes);
    return count ? 0 : 1;
}

static int run_file(const char *path)
{
    struct input input;
    if (!read_input(path, &input)) {
        perror(path);
        return 1;
    }
    try_input(&input);
    free(input.bytes);
    return 0;
}

int main(int argc, char **argv)
{
    char *end = NULL;
    unsigned long runs = argc > 1 ? strtoul(argv[1], &end, 10) : RUNS;
    if (end && *end)
        return run_file(argv[1]);
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    state = state ? state : 1;
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(keep_input);
    return run_mutated(argv[0], runs);
}
