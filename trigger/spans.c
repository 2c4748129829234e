#include "trigger/spans.h"

#include <errno.h>
#include <stdlib.h>

static uint64_t rest_before(const struct spans *spans, size_t i)
{
    return spans->list[i].from_ns - spans->list[i - 1].to_ns;
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static uint64_t median_rest(const struct spans *spans)
{
    uint64_t rests[SPANS_MAX] = {0};
    for (size_t i = 1; i < spans->count; i++)
        rests[i - 1] = rest_before(spans, i);
    qsort(rests, spans->count - 1, sizeof(rests[0]), compare);
    return rests[(spans->count - 1) / 2];
}

static void append(struct span *to, const struct span *span)
{
    to->to_ns = span->to_ns;
    to->cpu_ns += span->cpu_ns;
    to->rest = span->rest;
    to->call = span->call;
}

/* To about half, so that it is not done at each one that comes.  Of equal rests, as a
 * timer makes them, every other one goes, or nothing would be left of them. */
static void make_coarser(struct spans *spans)
{
    uint64_t limit = median_rest(spans);
    size_t kept = 0, equal = 0;
    for (size_t i = 1; i < spans->count; i++) {
        uint64_t rest = spans->list[i].from_ns - spans->list[kept].to_ns;
        if (rest < limit || (rest == limit && equal++ % 2 == 0))
            append(&spans->list[kept], &spans->list[i]);
        else
            spans->list[++kept] = spans->list[i];
    }
    spans->count = kept + 1;
    if (limit >= spans->finest_ns)
        spans->finest_ns = limit + 1;
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
