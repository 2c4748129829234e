/* The records `moving` and `arriving`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/moving.h"
#include "tests/fuzz/fuzz.h"

static size_t seen;

static int see(const struct moved_address *address, struct err *err)
{
    (void)err;
    seen += strlen(address->device);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size + 1);
    memcpy(text, bytes, size);
    text[size] = '\0';
    struct moving moving;
    struct err err;
    if (moving_parse(text, &moving, &err) == 0) {
        if (!moving_id_is_valid(moving.id) || strchr(moving.addresses, '\n'))
            abort();
        moving_addresses(&moving, see, &err);
        moving_add_address(&moving, "10.0.0.1/8@lo", &err);
    }
    free(text);
    return 0;
}

uint8_t *fuzz_seed(size_t index, size_t *size)
{
    static const char *const seeds[] = {
        "0123456789abcdef0123456789abcdef\n10.0.0.5/24@eth0 fd00::5/64@eth1\nssh b receive",
        "0123456789abcdef0123456789abcdef\n\nif true\nthen x\nfi\n"};
    if (index >= sizeof(seeds) / sizeof(seeds[0]))
        return NULL;
    *size = strlen(seeds[index]);
    return (uint8_t *)strdup(seeds[index]);
}
