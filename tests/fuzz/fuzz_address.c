/* --move-address, which comes over the stream as well. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/address.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size + 1);
    memcpy(text, bytes, size);
    text[size] = '\0';
    struct moved_address address, again;
    struct err err;
    if (address_parse(text, &address, &err) == 0) {
        char host[SOCKET_ADDRESS_TEXT], whole[SOCKET_ADDRESS_TEXT + 64];
        socket_address_text(&address.address, host);
        snprintf(whole, sizeof(whole), "%s/%u@%s", host, address.prefix, address.device);
        if (address_parse(whole, &again, &err) ||
            !socket_address_equals(&again.address, &address.address) ||
            again.prefix != address.prefix || strcmp(again.device, address.device) != 0)
            abort();
        address_device_is_up(address.device);
        address_check_leaving(&address, &err);
    }
    free(text);
    return 0;
}

uint8_t *fuzz_seed(size_t index, size_t *size)
{
    static const char *const seeds[] = {"10.0.0.5/24@eth0", "fd00::5/64@br-0.100",
                                        "::ffff:10.0.0.1/128@lo", "127.0.0.1/8@lo"};
    if (index >= sizeof(seeds) / sizeof(seeds[0]))
        return NULL;
    *size = strlen(seeds[index]);
    return (uint8_t *)strdup(seeds[index]);
}
