/*
 * Names near to a misspelt one.
 */
#ifndef FREEZEPOINT_SIMILAR_H
#define FREEZEPOINT_SIMILAR_H

#include <stddef.h>

#define SIMILAR_MAX          4
#define SIMILAR_DISTANCE_MAX 2
#define SIMILAR_PART_MIN     4 /* letters: shorter ones are in too many names */

/* Levenshtein distance, given up beyond `limit`. */
unsigned int similar_distance(const char *a, const char *b, unsigned int limit);

/* The nearest names so far, best first. */
struct similar {
    const char *wanted;
    char names[SIMILAR_MAX][128];
    unsigned int distances[SIMILAR_MAX];
    size_t count;
};

void similar_consider(struct similar *self, const char *name);

/* "'a', 'b' or 'c'"; empty where there is none. */
void similar_text(const struct similar *self, char *text, size_t size);

#endif
