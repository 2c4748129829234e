#include "trigger/usdt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "trigger/elf_file.h"
#include "trigger/similar.h"

#define SECTION      ".note.stapsdt"
#define BASE_SECTION ".stapsdt.base"
#define OWNER        "stapsdt"
#define NOTE_TYPE    3
#define LIST_MAX     600 /* letters */

/* What a note's contents begin with, in a file of 64 bits; provider, name and arguments
 * follow as strings. */
struct addresses {
    uint64_t location, base, semaphore;
};

/* A file that was moved after it was linked (prelink) shows by how much where its base
 * is now. */
static bool read_site(const char *contents, size_t size, const GElf_Shdr *base,
                      struct usdt_site *out)
{
    struct addresses addresses;
    if (size < sizeof(addresses))
        return false;
    memcpy(&addresses, contents, sizeof(addresses));
    const char *provider = contents + sizeof(addresses), *end = contents + size;
    const char *name = memchr(provider, '\0', (size_t)(end - provider));
    if (!name++ || !memchr(name, '\0', (size_t)(end - name)))
        return false;
    uint64_t moved = base ? base->sh_addr - addresses.base : 0;
    *out = (struct usdt_site){
        .provider = provider,
        .name = name,
        .address = addresses.location + moved,
        .semaphore = addresses.semaphore ? addresses.semaphore + moved : 0,
    };
    return *provider && *name;
}

static void visit_notes(Elf_Data *data, const GElf_Shdr *base,
                        bool (*visit)(const struct usdt_site *, void *), void *context)
{
    GElf_Nhdr note;
    size_t next, name, contents;
    for (size_t at = 0; (next = gelf_getnote(data, at, &note, &name, &contents)) > at; at = next) {
        struct usdt_site site;
        if (note.n_type == NOTE_TYPE && note.n_namesz == sizeof(OWNER) &&
            !memcmp((const char *)data->d_buf + name, OWNER, sizeof(OWNER)) &&
            read_site((const char *)data->d_buf + contents, note.n_descsz, base, &site) &&
            !visit(&site, context))
            return;
    }
}

int usdt_visit(const char *path, bool (*visit)(const struct usdt_site *, void *), void *context,
               struct err *err)
{
    _cleanup_(elf_file_close) struct elf_file file = ELF_FILE_NONE;
    int error = elf_file_open(path, &file, err);
    if (error)
        return error;
    GElf_Shdr header, base;
    Elf_Data *data = elf_file_section(&file, SECTION, &header);
    if (gelf_getclass(file.elf) != ELFCLASS64 || !data || header.sh_type != SHT_NOTE)
        return 0;
    bool has_base = elf_file_section(&file, BASE_SECTION, &base) != NULL;
    visit_notes(data, has_base ? &base : NULL, visit, context);
    return 0;
}

struct search {
    const struct point *point;
    struct usdt_sites sites;
    bool failed, too_many;
    struct similar similar;
    /* What there is, of the provider that was asked for, or else of all. */
    char list[LIST_MAX];
    size_t others;
    bool of_provider;
    char wanted[64];
};

static bool add_site(struct search *search, const struct usdt_site *site)
{
    struct usdt_sites *sites = &search->sites;
    search->too_many = sites->count == USDT_SITES_MAX;
    if (search->too_many)
        return false;
    struct usdt_site *larger = reallocarray(sites->list, sites->count + 1, sizeof(*larger));
    search->failed = !larger;
    if (!larger)
        return false;
    sites->list = larger;
    sites->list[sites->count++] =
        (struct usdt_site){.address = site->address, .semaphore = site->semaphore};
    return true;
}

static bool consider(const struct usdt_site *site, void *context)
{
    struct search *search = context;
    bool of_provider = !strcmp(site->provider, search->point->provider);
    search->of_provider |= of_provider;
    if (!of_provider || strcmp(site->name, search->point->function) != 0)
        return true;
    return add_site(search, site);
}

static bool list_one(const struct usdt_site *site, void *context)
{
    struct search *search = context;
    char wrapped[300];
    if (search->of_provider && strcmp(site->provider, search->point->provider) != 0)
        return true;
    snprintf(wrapped, sizeof(wrapped), "%s:%s", site->provider, site->name);
    similar_consider(&search->similar, wrapped);
    snprintf(wrapped, sizeof(wrapped), " %s:%s,", site->provider, site->name);
    if (strstr(search->list, wrapped))
        return true;
    if (strlen(search->list) + strlen(wrapped) < sizeof(search->list))
        strcat(search->list, wrapped);
    else
        search->others++;
    return true;
}

static int refuse_unknown(struct search *search, struct err *err)
{
    const struct point *point = search->point;
    char names[SIMILAR_MAX * 140];
    snprintf(search->wanted, sizeof(search->wanted), "%s:%s", point->provider, point->function);
    search->similar.wanted = search->wanted;
    int error = usdt_visit(point->library, list_one, search, err);
    if (error)
        return error;
    size_t length = strlen(search->list);
    if (!length)
        return err_usage(err, "--at '%s': '%s' has no static tracepoints (" SECTION ")",
                         point->spec, point->library);
    search->list[length - 1] = '\0';
    similar_text(&search->similar, names, sizeof(names));
    if (names[0])
        return err_usage(err, "--at '%s': '%s' has no such tracepoint; did you mean %s?",
                         point->spec, point->library, names);
    return err_usage(err, "--at '%s': '%s' has no such tracepoint, but%s%s", point->spec,
                     point->library, search->list, search->others ? ", ... (readelf -n)" : "");
}

int usdt_find(const struct point *point, struct usdt_sites *out, struct err *err)
{
    struct search search = {.point = point};
    int error = usdt_visit(point->library, consider, &search, err);
    if (error)
        err_usage(err, "--at '%s': %s", point->spec, strdupa(err->text));
    else if (search.failed)
        error = err_set(err, ENOMEM, "--at");
    else if (search.too_many)
        error =
            err_usage(err, "--at '%s': it is in more than %d places", point->spec, USDT_SITES_MAX);
    else if (!search.sites.count)
        error = refuse_unknown(&search, err);
    if (error)
        usdt_sites_release(&search.sites);
    else
        *out = search.sites;
    return error;
}

void usdt_sites_release(struct usdt_sites *sites)
{
    free(sites->list);
    *sites = (struct usdt_sites){NULL};
}
