#include "trigger/hooks.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "trigger/similar.h"
#include "trigger/symbols.h"

/* What the program's files say about one name. */
#define VERSIONS_MAX 8

struct finding {
    const char *name;
    bool in_executable, is_function, is_data;
    const char *library; /* of the first definition */
    /* Old versions whose address is not the default one's, of `library`. */
    struct {
        char text[64];
        uint64_t value;
    } old[VERSIONS_MAX];
    size_t old_count;
    uint64_t value;
};

struct search {
    struct finding *findings;
    size_t count;
    const char *path;
    bool is_executable;
};

static void add_old_version(struct finding *finding, const struct symbol *symbol)
{
    if (finding->old_count == VERSIONS_MAX || !symbol->version)
        return;
    snprintf(finding->old[finding->old_count].text, sizeof(finding->old[0].text), "%s",
             symbol->version);
    finding->old[finding->old_count++].value = symbol->value;
}

static bool consider(const struct symbol *symbol, void *context)
{
    const struct search *search = context;
    for (size_t i = 0; symbol->is_defined && i < search->count; i++) {
        struct finding *finding = &search->findings[i];
        if (strcmp(finding->name, symbol->name) != 0 ||
            (finding->library && finding->library != search->path))
            continue;
        finding->library = search->path;
        finding->is_function |= symbol->is_function;
        finding->is_data |= !symbol->is_function;
        finding->in_executable |= search->is_executable;
        if (symbol->is_default)
            finding->value = symbol->value;
        else
            add_old_version(finding, symbol);
    }
    return true;
}

static void drop_same_versions(struct finding *finding)
{
    size_t kept = 0;
    for (size_t i = 0; i < finding->old_count; i++)
        if (finding->old[i].value != finding->value)
            finding->old[kept++] = finding->old[i];
    finding->old_count = kept;
}

static void search_program(const struct program *program, struct finding *findings, size_t count)
{
    struct search search = {
        .findings = findings, .count = count, .path = program->executable, .is_executable = true};
    struct err err;
    if (symbols_visit_dynamic(search.path, consider, &search, &err))
        log_info("hooks", "%s", err.text);
    search.is_executable = false;
    for (size_t i = 0; i < program->library_count; i++) {
        search.path = program->libraries[i];
        if (symbols_visit_dynamic(search.path, consider, &search, &err))
            log_info("hooks", "%s", err.text);
    }
    for (size_t i = 0; i < count; i++)
        drop_same_versions(&findings[i]);
}

struct internal_search {
    const char *name;
    bool found;
};

static bool consider_internal(const struct symbol *symbol, void *context)
{
    struct internal_search *search = context;
    search->found =
        symbol->is_defined && symbol->is_function && !strcmp(symbol->name, search->name);
    return !search->found;
}

static bool is_internal(const struct program *program, const char *name)
{
    struct internal_search search = {.name = name};
    struct err ignored;
    symbols_visit_static(program->executable, consider_internal, &search, &ignored);
    return search.found;
}

struct suggestion {
    const char *name;
    char text[FZ_NAME_MAX];
    unsigned int distance;
};

static bool consider_similar(const struct symbol *symbol, void *context)
{
    struct suggestion *best = context;
    if (!symbol->is_defined || !symbol->is_function || symbol->name[0] == '_')
        return true;
    unsigned int distance = similar_distance(best->name, symbol->name, best->distance);
    if (distance < best->distance) {
        best->distance = distance;
        snprintf(best->text, sizeof(best->text), "%s", symbol->name);
    }
    return true;
}

static void warn_unknown(const struct program *program, const struct point *point,
                         void (*warn)(const char *, void *), void *context)
{
    struct suggestion best = {.name = point->function, .distance = 3};
    struct err ignored;
    for (size_t i = 0; i < program->library_count; i++)
        symbols_visit_dynamic(program->libraries[i], consider_similar, &best, &ignored);
    char line[PATH_MAX + FZ_NAME_MAX * 3];
    snprintf(line, sizeof(line),
             "no library that '%s' links has a function '%s': it is hit only if a library loaded "
             "later has it%s%s%s",
             program->executable, point->function, best.text[0] ? "; did you mean '" : "",
             best.text, best.text[0] ? "'?" : "");
    warn(line, context);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int judge(const struct program *program, const struct point *point,
                 const struct finding *finding, void (*warn)(const char *, void *), void *context,
                 struct err *err)
{
    if (finding->is_function && finding->in_executable)
        return err_usage(err,
                         "--at '%s': '%s' is a function of '%s' itself, which no preload "
                         "library can reach: give it as 'probe:%s:%s', or a library function that "
                         "it calls",
                         point->spec, point->function, program->executable, program->executable,
                         point->function);
    if (finding->is_data && !finding->is_function)
        return err_usage(err, "--at '%s': '%s' is data of %s, not a function", point->spec,
                         point->function, base_name(finding->library));
    if (finding->is_function)
        return 0;
    if (is_internal(program, point->function))
        return err_usage(err,
                         "--at '%s': '%s' is an internal function of '%s', which no preload "
                         "library can reach: give it as 'probe:%s:%s', or a library function that "
                         "it calls",
                         point->spec, point->function, program->executable, program->executable,
                         point->function);
    if (program->library_count)
        warn_unknown(program, point, warn, context);
    return 0;
}

static const struct preload_slot *find_slot(const struct hooks *hooks, const char *name)
{
    for (size_t i = 0; i < hooks->slot_count; i++)
        if (!strcmp(hooks->slots[i].name, name))
            return &hooks->slots[i];
    return NULL;
}

static int add_slot(struct hooks *hooks, const struct point *point, const char *name,
                    const char *version, struct err *err)
{
    if (hooks->slot_count == FZ_SLOT_MAX)
        return err_usage(err, "--at '%s': more than %d functions cannot be hooked at once",
                         point->spec, FZ_SLOT_MAX);
    char *copied = version ? strdup(version) : NULL;
    if (version && !copied)
        return err_set(err, ENOMEM, "hooks");
    hooks->versions[hooks->slot_count] = copied;
    hooks->slots[hooks->slot_count++] =
        (struct preload_slot){.name = name,
                              .version = copied,
                              .library = point->library,
                              .counter = (uint32_t)hooks->counter_count};
    return 0;
}

static int add_name(struct hooks *hooks, const struct point *point, const struct finding *finding,
                    struct err *err)
{
    int error = 0;
    for (size_t i = 0; i < finding->old_count && !error; i++)
        error = add_slot(hooks, point, finding->name, finding->old[i].text, err);
    return error ? error : add_slot(hooks, point, finding->name, NULL, err);
}

static bool is_same_library(const char *a, const char *b)
{
    return a && b ? !strcmp(a, b) : a == b;
}

/* Hooks all names of a function that has no hook yet; *counter gets the counter
 * that its calls are counted on. */
static int hook_function(struct hooks *hooks, const struct point *point,
                         const struct finding *findings, size_t count, uint32_t *counter,
                         struct err *err)
{
    const struct preload_slot *slot = find_slot(hooks, point->function);
    if (slot && is_same_library(slot->library, point->library)) {
        *counter = slot->counter;
        return 0;
    }
    if (slot)
        return err_usage(err,
                         "--at '%s': '%s' is hooked already for another --at, in %s: one of "
                         "them can be had",
                         point->spec, point->function,
                         slot->library ? slot->library : "any library");
    int error = 0;
    for (size_t i = 0; i < count && !error; i++)
        if ((i == 0 || findings[i].is_function) && !find_slot(hooks, findings[i].name))
            error = add_name(hooks, point, &findings[i], err);
    *counter = (uint32_t)hooks->counter_count++;
    return error;
}

/* The program's own, which the shim reaches through __libc_start_main. */
static bool is_main(const struct point *point)
{
    return !point->library && !strcmp(point->function, "main");
}

static int plan_point(struct hooks *hooks, const struct point *point, uint64_t every,
                      const struct program *program, void (*warn)(const char *, void *),
                      void *context, struct err *err)
{
    const char *names[POINT_ALIAS_MAX + 2];
    struct finding findings[POINT_ALIAS_MAX + 2] = {0};
    size_t count = 0;
    point_names(point->function, names);
    for (; names[count]; count++)
        findings[count].name = count ? names[count] : point->function;
    search_program(program, findings, count);
    int error = is_main(point) ? 0 : judge(program, point, &findings[0], warn, context, err);
    uint32_t counter = 0;
    if (!error)
        error = hook_function(hooks, point, findings, count, &counter, err);
    if (!error)
        hooks->rules[hooks->rule_count++] =
            (struct fz_rule){.first = point->number, .every = every, .counter = counter};
    return error;
}

int hooks_plan(const struct point *points, size_t count, uint64_t every,
               const struct program *program, void (*warn)(const char *line, void *context),
               void *context, struct hooks *out, struct err *err)
{
    if (count > FZ_RULE_MAX)
        return err_usage(err, "more than %d --at options cannot be had", FZ_RULE_MAX);
    *out = (struct hooks){0};
    for (size_t i = 0; i < count; i++) {
        int error = plan_point(out, &points[i], every, program, warn, context, err);
        if (error) {
            hooks_release(out);
            return error;
        }
    }
    return 0;
}

void hooks_release(struct hooks *hooks)
{
    for (size_t i = 0; i < hooks->slot_count; i++)
        cleanup_free(&hooks->versions[i]);
    *hooks = (struct hooks){0};
}
