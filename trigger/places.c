#include "trigger/places.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"

#define PLACES_MAX 65536

static void add_line(struct places *places, pid_t pid, char *line)
{
    struct place place = {.pid = pid};
    char permissions[5];
    int used = 0;
    line[strcspn(line, "\n")] = '\0';
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %*s %n", &place.start, &place.end,
               permissions, &place.offset, &used) < 4 ||
        permissions[2] != 'x' || line[used] != '/' || places->count == PLACES_MAX)
        return;
    struct place *larger = reallocarray(places->list, places->count + 1, sizeof(*larger));
    if (!larger)
        return;
    places->list = larger;
    place.path = strdup(line + used);
    if (place.path)
        places->list[places->count++] = place;
}

void places_add(struct places *places, pid_t pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    _cleanup_fclose_ FILE *maps = fopen(path, "re");
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    while (maps && getline(&line, &capacity, maps) > 0)
        add_line(places, pid, line);
}

const struct place *places_find(const struct places *places, pid_t pid, uint64_t address)
{
    for (size_t i = 0; i < places->count; i++) {
        const struct place *place = &places->list[i];
        if (place->pid == pid && address >= place->start && address < place->end)
            return place;
    }
    return NULL;
}

void places_release(struct places *places)
{
    for (size_t i = 0; i < places->count; i++)
        free(places->list[i].path);
    free(places->list);
    *places = (struct places){0};
}
