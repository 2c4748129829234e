#include "trigger/symbol_search.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "lib/fd.h"
#include "trigger/demangle.h"
#include "trigger/similar.h"
#include "trigger/symbols.h"

#define PLACES_MAX 8

/* Functions of one name: static ones of several source files may have it, and overloaded
 * ones. */
struct places {
    struct place {
        uint64_t value, size;
        bool is_resolver;
        char name[96]; /* demangled, if it is */
    } list[PLACES_MAX];
    size_t count; /* may be more */
};

struct search {
    const char *name;
    struct places places;
    bool is_data;
    struct similar similar;
};

static void add_place(struct places *places, const struct symbol *symbol, const char *name)
{
    for (size_t i = 0; i < places->count && i < PLACES_MAX; i++)
        if (places->list[i].value == symbol->value)
            return;
    if (places->count < PLACES_MAX) {
        struct place *place = &places->list[places->count];
        *place = (struct place){symbol->value, symbol->size, symbol->is_resolver, ""};
        snprintf(place->name, sizeof(place->name), "%s", name);
    }
    places->count++;
}

static bool consider(const struct symbol *symbol, void *context)
{
    struct search *search = context;
    if (!symbol->is_defined || strcmp(symbol->name, search->name) != 0)
        return true;
    search->is_data |= !symbol->is_function;
    if (symbol->is_function)
        add_place(&search->places, symbol, "");
    return true;
}

static bool consider_demangled(const struct symbol *symbol, void *context)
{
    struct search *search = context;
    if (!symbol->is_defined || !symbol->is_function)
        return true;
    _cleanup_free_ char *brief = demangle_short(symbol->name);
    if (brief && demangle_is(symbol->name, search->name)) {
        _cleanup_free_ char *full = demangle_full(symbol->name);
        add_place(&search->places, symbol, full ? full : brief);
    }
    similar_consider(&search->similar, brief ? brief : symbol->name);
    return true;
}

static int refuse_unknown(const struct point *point, const struct search *search, struct err *err)
{
    char names[SIMILAR_MAX * 140];
    if (search->is_data)
        return err_usage(err, "--at '%s': '%s' is data of '%s', not a function", point->spec,
                         point->function, point->library);
    similar_text(&search->similar, names, sizeof(names));
    return err_usage(err, "--at '%s': '%s' has no symbol '%s'%s%s%s", point->spec, point->library,
                     point->function, names[0] ? "; did you mean " : "", names,
                     names[0] ? "?" : "; a stripped program's code is given by its address, 0x...");
}

static int refuse_ambiguous(const struct point *point, const struct places *places, struct err *err)
{
    char text[PLACES_MAX * 128] = "";
    size_t length = 0;
    for (size_t i = 0; i < places->count && i < PLACES_MAX && length < sizeof(text); i++) {
        const struct place *place = &places->list[i];
        length +=
            (size_t)snprintf(text + length, sizeof(text) - length, "%s0x%llx%s%s%s", i ? ", " : "",
                             (unsigned long long)place->value, place->name[0] ? " (" : "",
                             place->name, place->name[0] ? ")" : "");
    }
    return err_usage(err,
                     "--at '%s': '%s' has %zu%s functions '%s', at %s: give one of these in the "
                     "name's place",
                     point->spec, point->library,
                     places->count < PLACES_MAX ? places->count : PLACES_MAX,
                     places->count > PLACES_MAX ? " or more" : "", point->function, text);
}

static int judge(const struct point *point, const struct search *search, struct err *err)
{
    const struct place *place = &search->places.list[0];
    if (search->places.count == 0)
        return refuse_unknown(point, search, err);
    if (search->places.count > 1)
        return refuse_ambiguous(point, &search->places, err);
    if (place->is_resolver)
        return err_usage(err,
                         "--at '%s': which code '%s' is, is chosen when the program starts "
                         "(an indirect function): name the variant, see 'nm %s'",
                         point->spec, point->function, point->library);
    if (place->size && point->offset >= place->size)
        return err_usage(err, "--at '%s': '%s' is %llu bytes long", point->spec, point->function,
                         (unsigned long long)place->size);
    return 0;
}

int symbol_search(const struct point *point, uint64_t *address, struct err *err)
{
    struct search search = {.name = point->function, .similar.wanted = point->function};
    int error = symbols_visit_all(point->library, consider, &search, err);
    if (!error && !search.places.count && !search.is_data)
        error = symbols_visit_all(point->library, consider_demangled, &search, err);
    if (error)
        return err_usage(err, "--at '%s': %s", point->spec, strdupa(err->text));
    error = judge(point, &search, err);
    *address = search.places.list[0].value;
    return error;
}

struct covering {
    uint64_t address, start;
    bool found;
};

static bool consider_covering(const struct symbol *symbol, void *context)
{
    struct covering *covering = context;
    bool covers = symbol->is_defined && symbol->is_function && symbol->value <= covering->address &&
                  covering->address - symbol->value < symbol->size;
    if (covers)
        covering->start = symbol->value;
    covering->found |= covers;
    return !covers;
}

int symbol_search_covering(const char *path, uint64_t address, uint64_t *start, bool *found,
                           struct err *err)
{
    struct covering covering = {.address = address};
    int error = symbols_visit_all(path, consider_covering, &covering, err);
    *start = covering.start;
    *found = covering.found;
    return error;
}
