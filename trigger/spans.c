#include "trigger/spans.h"

#include <errno.h>
#include <stdlib.h>

#include "bpf/points.h"

static void merge(struct spans *spans)
{
    size_t kept = 0;
    for (size_t i = 1; i < spans->count; i++) {
        const struct span *span = &spans->list[i];
        struct span *last = &spans->list[kept];
        if (span->from_ns - last->to_ns >= spans->finest_ns) {
            spans->list[++kept] = *span;
            continue;
        }
        last->to_ns = span->to_ns;
        last->cpu_ns += span->cpu_ns;
        last->rest = span->rest;
        last->call = span->call;
    }
    spans->count = kept + 1;
}

/* To half, so that it is not done at each one that comes. */
static void make_coarser(struct spans *spans)
{
    while (spans->count > SPANS_MAX / 2) {
        spans->finest_ns = spans->finest_ns ? spans->finest_ns * 2 : POINTS_REST_NS * 2;
        merge(spans);
    }
}

static int grow(struct spans *spans)
{
    size_t room = spans->room ? spans->room * 2 : 16;
    struct span *larger = reallocarray(spans->list, room, sizeof(*larger));
    if (!larger)
        return -ENOMEM;
    spans->list = larger;
    spans->room = room;
    return 0;
}

int spans_add(struct spans *spans, const struct span *span)
{
    uint64_t end = spans->count ? spans->list[spans->count - 1].to_ns : 0;
    if (span->from_ns < end || span->to_ns < span->from_ns)
        return 0;
    if (spans->count == SPANS_MAX)
        make_coarser(spans);
    if (spans->count == spans->room && grow(spans) < 0)
        return -ENOMEM;
    spans->list[spans->count++] = *span;
    return 0;
}

void spans_release(struct spans *spans)
{
    free(spans->list);
    *spans = (struct spans){0};
}
