#include "trigger/similar.h"

#include <stdio.h>
#include <string.h>

unsigned int similar_distance(const char *a, const char *b, unsigned int limit)
{
    unsigned int row[64];
    size_t length = strlen(b);
    if (length + 1 > sizeof(row) / sizeof(row[0]))
        return limit + 1;
    for (size_t j = 0; j <= length; j++)
        row[j] = (unsigned int)j;
    for (size_t i = 1; a[i - 1]; i++) {
        unsigned int diagonal = row[0], best = row[0] = (unsigned int)i;
        for (size_t j = 1; j <= length; j++) {
            unsigned int changed = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            unsigned int shorter = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = changed < shorter ? changed : shorter;
            best = row[j] < best ? row[j] : best;
        }
        if (best > limit)
            return limit + 1;
    }
    return row[length];
}

/* Written in part, or nearly. */
static unsigned int rank_of(const char *wanted, const char *name)
{
    unsigned int distance = similar_distance(wanted, name, SIMILAR_DISTANCE_MAX);
    if (distance > SIMILAR_DISTANCE_MAX && strlen(wanted) >= SIMILAR_PART_MIN &&
        strcasestr(name, wanted))
        distance = SIMILAR_DISTANCE_MAX;
    return distance;
}

void similar_consider(struct similar *self, const char *name)
{
    unsigned int distance = rank_of(self->wanted, name);
    size_t at = self->count;
    if (distance > SIMILAR_DISTANCE_MAX || strlen(name) >= sizeof(self->names[0]))
        return;
    for (size_t i = 0; i < self->count; i++)
        if (!strcmp(self->names[i], name))
            return;
    while (at > 0 && self->distances[at - 1] > distance)
        at--;
    if (at == SIMILAR_MAX)
        return;
    size_t moved = (self->count < SIMILAR_MAX ? self->count : SIMILAR_MAX - 1) - at;
    memmove(self->names[at + 1], self->names[at], moved * sizeof(self->names[0]));
    memmove(&self->distances[at + 1], &self->distances[at], moved * sizeof(self->distances[0]));
    snprintf(self->names[at], sizeof(self->names[0]), "%s", name);
    self->distances[at] = distance;
    self->count += self->count < SIMILAR_MAX;
}

void similar_text(const struct similar *self, char *text, size_t size)
{
    size_t length = 0;
    text[0] = '\0';
    for (size_t i = 0; i < self->count && length < size; i++) {
        const char *before = i == 0 ? "" : i + 1 == self->count ? " or " : ", ";
        length += (size_t)snprintf(text + length, size - length, "%s'%s'", before, self->names[i]);
    }
}
