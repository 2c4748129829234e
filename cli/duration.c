#include "cli/duration.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MS_MAX (3600UL * 1000)

int duration_parse(const char *option, const char *text, int min_ms, int *ms, struct err *err)
{
    static const struct {
        const char *unit;
        unsigned long ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"", 1000}, {"m", 60UL * 1000}};
    char *end;
    unsigned long value = *text >= '0' && *text <= '9' ? strtoul(text, &end, 10) : 0;
    for (size_t i = 0; value && i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(end, units[i].unit) != 0 || value > MS_MAX / units[i].ms ||
            value * units[i].ms < (unsigned long)min_ms)
            continue;
        *ms = (int)(value * units[i].ms);
        return 0;
    }
    return err_usage(err, "--%s '%s': a time like 500ms, 2s or 1m is expected, from %dms on",
                     option, text, min_ms);
}
