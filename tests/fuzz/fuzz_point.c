/* --at POINT. */
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "trigger/point.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *spec = malloc(size + 1);
    memcpy(spec, bytes, size);
    spec[size] = '\0';
    struct point point;
    struct err err;
    if (point_parse(spec, &point, &err) == 0) {
        const char *names[POINT_ALIAS_MAX + 2];
        point_names(point.function, names);
        size_t length = point_length_unnumbered(spec);
        if (strcmp(names[0], point.function) || point.number == 0 || length > size ||
            (spec[length] && spec[length] != '#'))
            abort();
        point_release(&point);
    }
    free(spec);
    return 0;
}

uint8_t *fuzz_seed(size_t index, size_t *size)
{
    static const char *const seeds[] = {"listen",
                                        "libc.so.6:epoll_wait#20",
                                        "main",
                                        "a#18446744073709551615",
                                        "probe:/bin/ls:main+0x10#3",
                                        "probe:a:n::operator+(int)+1#2",
                                        "probe:a:f::{lambda()#1}#2",
                                        "usdt:a:b:c#3"};
    if (index >= sizeof(seeds) / sizeof(seeds[0]))
        return NULL;
    *size = strlen(seeds[index]);
    return (uint8_t *)strdup(seeds[index]);
}
