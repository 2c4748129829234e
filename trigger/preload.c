#include "trigger/preload.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/fd.h"

/* trigger/template.S */
extern const unsigned char preload_template[], preload_template_end[];

/* DT_GNU_HASH: with its Bloom filter the dynamic linker passes the library by for
 * nearly every name that is not ours (glibc, do_lookup_x). */
#define BLOOM_WORDS  16
#define BLOOM_SHIFT  6
#define BUCKETS      64
#define FIRST_SYMBOL 1

/* 0 and 1 are local and global; 2 is what a reference without any version would
 * take even if hidden (glibc, check_match). */
#define FIRST_VERSION 3

#define SONAME "libfreezepoint-preload.so"

_Static_assert(16 + 8 * BLOOM_WORDS + 4 * (BUCKETS + FZ_SYMBOLS_MAX) <= FZ_HASH_SIZE, "room");
_Static_assert((FZ_SYMBOLS_MAX + 1) * (sizeof(Elf64_Verdef) + sizeof(Elf64_Verdaux)) <=
                   FZ_VERDEF_SIZE,
               "room");

struct export
{
    const char *name, *version;
    uint32_t stub, hash;
};

struct builder {
    unsigned char *bytes;
    size_t size;
    struct fz_template layout;
    uint32_t strings_used;
    struct export exports[FZ_SYMBOLS_MAX];
    size_t export_count;
    bool has_versions;
};

static void *at(const struct builder *self, uint64_t offset)
{
    return self->bytes + offset;
}

static uint32_t hash_gnu(const char *name)
{
    uint32_t hash = 5381;
    for (; *name; name++)
        hash = hash * 33 + (unsigned char)*name;
    return hash;
}

static uint32_t hash_sysv(const char *name)
{
    uint32_t hash = 0;
    for (; *name; name++) {
        hash = (hash << 4) + (unsigned char)*name;
        hash ^= (hash & 0xf0000000) >> 24;
        hash &= 0x0fffffff;
    }
    return hash;
}

/* Returns the string's offset in the string table, or 0 where there is no room; the
 * same text gets the same offset. */
static uint32_t add_string(struct builder *self, const char *text)
{
    char *strings = at(self, self->layout.strings);
    for (uint32_t i = 1; i < self->strings_used; i += (uint32_t)strlen(strings + i) + 1)
        if (!strcmp(strings + i, text))
            return i;
    size_t size = strlen(text) + 1;
    if (size > FZ_STRINGS_SIZE - self->strings_used)
        return 0;
    uint32_t offset = self->strings_used;
    memcpy(strings + offset, text, size);
    self->strings_used += (uint32_t)size;
    return offset;
}

static int check_name(const char *text, const char *what, struct err *err)
{
    if (!text || !*text || strlen(text) >= FZ_NAME_MAX)
        return err_text(err, EINVAL, "a %s must have 1 to %d characters", what, FZ_NAME_MAX - 1);
    return 0;
}

static bool is_same(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

static int check_slot(const struct preload_request *request, size_t index, struct err *err)
{
    const struct preload_slot *slot = &request->slots[index];
    int error = check_name(slot->name, "function's name", err);
    if (!error && slot->version)
        error = check_name(slot->version, "symbol version", err);
    if (!error && slot->library)
        error = check_name(slot->library, "library's name", err);
    if (error)
        return error;
    if (slot->counter >= FZ_SLOT_MAX)
        return err_text(err, EINVAL, "'%s' has no counter %u", slot->name, slot->counter);
    if (!strcmp(slot->name, "main") && (slot->version || slot->library))
        return err_text(err, EINVAL, "'main' is of the program, not of a library");
    for (size_t i = 0; i < index; i++)
        if (is_same(request->slots[i].name, slot->name) &&
            is_same(request->slots[i].version, slot->version))
            return err_text(err, EINVAL, "'%s' is there twice", slot->name);
    return 0;
}

static int check_request(const struct preload_request *request, struct err *err)
{
    if (request->slot_count > FZ_SLOT_MAX)
        return err_text(err, E2BIG, "%zu functions at once, the limit is %d", request->slot_count,
                        FZ_SLOT_MAX);
    if (request->rule_count > FZ_RULE_MAX)
        return err_text(err, E2BIG, "%zu points, the limit is %d", request->rule_count,
                        FZ_RULE_MAX);
    if (request->filter_length > FZ_FILTER_MAX)
        return err_text(err, E2BIG, "a filter of %zu instructions, the limit is %d",
                        request->filter_length, FZ_FILTER_MAX);
    if (strlen(request->socket_path) >= FZ_PATH_MAX)
        return err_text(err, E2BIG, "the socket's path '%s' is too long", request->socket_path);
    for (size_t i = 0; i < request->slot_count; i++) {
        int error = check_slot(request, i, err);
        if (error)
            return error;
    }
    for (size_t i = 0; i < request->rule_count; i++)
        if (request->rules[i].first == 0 || request->rules[i].counter >= FZ_SLOT_MAX)
            return err_text(err, EINVAL, "point %zu has no hit number or no counter", i);
    return 0;
}

static bool is_requested(const struct preload_request *request, const char *name)
{
    for (size_t i = 0; i < request->slot_count; i++)
        if (!strcmp(request->slots[i].name, name))
            return true;
    return false;
}

static void add_export(struct builder *self, const char *name, const char *version, uint32_t stub)
{
    self->exports[self->export_count++] =
        (struct export){.name = name, .version = version, .stub = stub, .hash = hash_gnu(name)};
    self->has_versions |= version != NULL;
}

/* Makes the stub count in `counter` rather than in the one of its own number. */
static void set_counter(struct builder *self, uint32_t stub, uint32_t counter)
{
    int32_t shift = ((int32_t)counter - (int32_t)stub) * (int32_t)sizeof(struct fz_counter);
    for (int i = 0; i < 3; i++) {
        unsigned char *place =
            at(self, self->layout.stubs + (uint64_t)stub * FZ_STUB_SIZE + self->layout.operands[i]);
        int32_t displacement;
        memcpy(&displacement, place, sizeof(displacement));
        displacement += shift;
        memcpy(place, &displacement, sizeof(displacement));
    }
}

static int fill_slot(struct builder *self, uint32_t index, const struct preload_slot *wanted,
                     struct err *err)
{
    struct fz_slot *slot = (struct fz_slot *)at(self, self->layout.slots) + index;
    slot->counter = wanted->counter;
    set_counter(self, index, wanted->counter);
    if (!strcmp(wanted->name, "main")) {
        *(uint32_t *)at(self, self->layout.main_slot) = index + 1;
        return 0;
    }
    slot->name = add_string(self, wanted->name);
    slot->version = wanted->version ? add_string(self, wanted->version) : 0;
    slot->library = wanted->library ? add_string(self, wanted->library) : 0;
    if (!slot->name || (wanted->version && !slot->version) || (wanted->library && !slot->library))
        return err_text(err, E2BIG, "too many long names of functions");
    add_export(self, wanted->name, wanted->version, index);
    return 0;
}

static int fill_slots(struct builder *self, const struct preload_request *request, struct err *err)
{
    static const struct {
        uint32_t index;
        const char *name, *version;
    } specials[] = {
        {FZ_SLOT_DLSYM, "dlsym", NULL},
        {FZ_SLOT_DLVSYM, "dlvsym", NULL},
        {FZ_SLOT_DLCLOSE, "dlclose", NULL},
        {FZ_SLOT_START_MAIN, "__libc_start_main", NULL},
        /* Programs linked before glibc 2.34 leave more to their own code. */
        {FZ_SLOT_START_MAIN_OLD, "__libc_start_main", "GLIBC_2.2.5"},
    };
    bool has_main = is_requested(request, "main");
    if (has_main && is_requested(request, "__libc_start_main"))
        return err_text(err, EINVAL, "'main' and '__libc_start_main' exclude each other");
    for (uint32_t i = 0; i < request->slot_count; i++) {
        int error = fill_slot(self, i, &request->slots[i], err);
        if (error)
            return error;
    }
    for (size_t i = 0; i < sizeof(specials) / sizeof(specials[0]); i++) {
        uint32_t index = specials[i].index;
        if (is_requested(request, specials[i].name) || (index >= FZ_SLOT_START_MAIN && !has_main))
            continue;
        struct fz_slot *slot = (struct fz_slot *)at(self, self->layout.slots) + index;
        slot->name = add_string(self, specials[i].name);
        slot->version = specials[i].version ? add_string(self, specials[i].version) : 0;
        if (!slot->name || (specials[i].version && !slot->version))
            return err_text(err, E2BIG, "too many long names of functions");
        add_export(self, specials[i].name, specials[i].version, index);
    }
    return 0;
}

/* By bucket, as DT_GNU_HASH wants it; within a name the versions ahead of the
 * catch-all, or the linker would never get to them. */
static int compare_exports(const void *left, const void *right)
{
    const struct export *a = left, *b = right;
    uint32_t bucket_a = a->hash % BUCKETS, bucket_b = b->hash % BUCKETS;
    if (bucket_a != bucket_b)
        return bucket_a < bucket_b ? -1 : 1;
    int order = strcmp(a->name, b->name);
    if (order)
        return order;
    if (!a->version || !b->version)
        return a->version ? -1 : b->version ? 1 : 0;
    return strcmp(a->version, b->version);
}

static void write_hash(struct builder *self)
{
    uint32_t *header = at(self, self->layout.hash);
    uint64_t *bloom = (uint64_t *)(header + 4);
    uint32_t *buckets = (uint32_t *)(bloom + BLOOM_WORDS);
    uint32_t *chain = buckets + BUCKETS;
    header[0] = BUCKETS;
    header[1] = FIRST_SYMBOL;
    header[2] = BLOOM_WORDS;
    header[3] = BLOOM_SHIFT;
    for (uint32_t i = 0; i < self->export_count; i++) {
        uint32_t hash = self->exports[i].hash, bucket = hash % BUCKETS;
        bloom[hash / 64 % BLOOM_WORDS] |= 1ULL << hash % 64 | 1ULL << (hash >> BLOOM_SHIFT) % 64;
        if (!buckets[bucket])
            buckets[bucket] = FIRST_SYMBOL + i;
        bool last = i + 1 == self->export_count || self->exports[i + 1].hash % BUCKETS != bucket;
        chain[i] = last ? hash | 1 : hash & ~1U;
    }
}

static void write_symbols(struct builder *self)
{
    Elf64_Sym *symbols = at(self, self->layout.symbols);
    for (size_t i = 0; i < self->export_count; i++) {
        const struct export *export = &self->exports[i];
        symbols[FIRST_SYMBOL + i] = (Elf64_Sym){
            .st_name = add_string(self, export->name), /* it is there */
            .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
            .st_other = STV_DEFAULT,
            .st_shndx = 1, /* any but SHN_UNDEF and SHN_ABS */
            .st_value = self->layout.stubs + (uint64_t) export->stub * FZ_STUB_SIZE,
            .st_size = FZ_STUB_SIZE,
        };
    }
}

static Elf64_Verdef *write_version(struct builder *self, Elf64_Verdef *place, uint16_t index,
                                   uint32_t name)
{
    const char *text = (char *)at(self, self->layout.strings) + name;
    Elf64_Verdaux *aux = (Elf64_Verdaux *)(place + 1);
    *place = (Elf64_Verdef){.vd_version = VER_DEF_CURRENT,
                            .vd_flags = index == VER_NDX_GLOBAL ? VER_FLG_BASE : 0,
                            .vd_ndx = index,
                            .vd_cnt = 1,
                            .vd_hash = hash_sysv(text),
                            .vd_aux = sizeof(*place),
                            .vd_next = sizeof(*place) + sizeof(*aux)};
    *aux = (Elf64_Verdaux){.vda_name = name};
    return (Elf64_Verdef *)(aux + 1);
}

/* Returns the number of definitions. */
static uint32_t write_versions(struct builder *self, uint32_t soname)
{
    uint16_t *versym = at(self, self->layout.versym);
    uint32_t names[FZ_SYMBOLS_MAX];
    uint16_t count = 0;
    Elf64_Verdef *place = at(self, self->layout.verdef), *last = place;
    place = write_version(self, place, VER_NDX_GLOBAL, soname);
    for (size_t i = 0; i < self->export_count; i++) {
        const struct export *export = &self->exports[i];
        versym[FIRST_SYMBOL + i] = VER_NDX_GLOBAL;
        if (!export->version)
            continue;
        uint32_t name = add_string(self, export->version);
        uint16_t known = 0;
        while (known < count && names[known] != name)
            known++;
        if (known == count) {
            names[count++] = name;
            last = place;
            place = write_version(self, place, (uint16_t)(FIRST_VERSION + known), name);
        }
        versym[FIRST_SYMBOL + i] = (uint16_t)(0x8000 | (FIRST_VERSION + known));
    }
    last->vd_next = 0;
    return count + 1U;
}

static int write_dynamic(struct builder *self, struct err *err)
{
    uint32_t soname = add_string(self, SONAME);
    if (!soname)
        return err_text(err, E2BIG, "too many long names of functions");
    uint32_t versions = self->has_versions ? write_versions(self, soname) : 0;
    const Elf64_Dyn entries[] = {
        {.d_tag = DT_SONAME, .d_un.d_val = soname},
        {.d_tag = DT_INIT, .d_un.d_ptr = self->layout.constructor},
        {.d_tag = DT_GNU_HASH, .d_un.d_ptr = self->layout.hash},
        {.d_tag = DT_STRTAB, .d_un.d_ptr = self->layout.strings},
        {.d_tag = DT_SYMTAB, .d_un.d_ptr = self->layout.symbols},
        {.d_tag = DT_STRSZ, .d_un.d_val = FZ_STRINGS_SIZE},
        {.d_tag = DT_SYMENT, .d_un.d_val = sizeof(Elf64_Sym)},
        {.d_tag = versions ? DT_VERSYM : DT_NULL, .d_un.d_ptr = self->layout.versym},
        {.d_tag = DT_VERDEF, .d_un.d_ptr = self->layout.verdef},
        {.d_tag = DT_VERDEFNUM, .d_un.d_val = versions},
        {.d_tag = DT_NULL},
    };
    if (sizeof(entries) > self->layout.dynamic_size)
        return err_text(err, EIO, "the preload template has no room for its dynamic section");
    memset(at(self, self->layout.dynamic), 0, self->layout.dynamic_size);
    memcpy(at(self, self->layout.dynamic), entries, sizeof(entries));
    return 0;
}

static void fill_control(struct builder *self, const struct preload_request *request)
{
    struct fz_control *control = at(self, self->layout.control);
    strcpy(control->socket_path, request->socket_path); /* check_request() */
    control->slot_count = (uint32_t)request->slot_count;
    control->rule_count = (uint32_t)request->rule_count;
    control->filter_length = (uint32_t)request->filter_length;
    for (size_t i = 0; i < request->filter_length; i++)
        control->filter[i] =
            (struct fz_filter_instruction){request->filter[i].code, request->filter[i].jt,
                                           request->filter[i].jf, request->filter[i].k};
    for (size_t i = 0; i < FZ_SLOT_MAX; i++)
        control->counters[i].due = UINT64_MAX;
    for (size_t i = 0; i < request->slot_count; i++)
        if (request->slots[i].counter >= control->counter_count)
            control->counter_count = request->slots[i].counter + 1;
    for (size_t i = 0; i < request->rule_count; i++) {
        const struct fz_rule *rule = &request->rules[i];
        struct fz_counter *counter = &control->counters[rule->counter];
        control->rules[i] = *rule;
        if (rule->first < counter->due)
            counter->due = rule->first;
    }
}

static int open_template(struct builder *self, struct err *err)
{
    size_t size = (uintptr_t)preload_template_end - (uintptr_t)preload_template;
    struct fz_template *layout = &self->layout;
    if (size < FZ_TEMPLATE_OFFSET + sizeof(*layout))
        return err_text(err, EIO, "the preload template is truncated");
    memcpy(layout, preload_template + FZ_TEMPLATE_OFFSET, sizeof(*layout));
    if (layout->magic != FZ_TEMPLATE_MAGIC || layout->abi_version != FZ_ABI_VERSION ||
        layout->image_size > size)
        return err_text(err, EIO, "the preload template is not of this version");
    /* Whole: the section headers and local symbols behind the image let a debugger
     * unwind through the shim, and tracers find its tracepoint (preload/usdt.c). */
    self->size = size;
    self->bytes = malloc(size);
    if (!self->bytes)
        return err_set(err, ENOMEM, "preload library");
    memcpy(self->bytes, preload_template, size);
    self->strings_used = 1;
    return 0;
}

/* perf finds a probed file again by its build ID, and takes none without one. */
static void set_build_id(struct builder *self, char *text, size_t text_size)
{
    XXH128_hash_t hash = XXH3_128bits(self->bytes, self->size);
    XXH128_canonical_t canonical;
    _Static_assert(sizeof(canonical.digest) == FZ_BUILD_ID_SIZE, "abi");
    XXH128_canonicalFromHash(&canonical, hash);
    memcpy(at(self, self->layout.build_id), canonical.digest, sizeof(canonical.digest));
    snprintf(text, text_size, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
}

int preload_build(const struct preload_request *request, struct preload *out, struct err *err)
{
    int error = check_request(request, err);
    if (error)
        return error;
    struct builder self = {0};
    error = open_template(&self, err);
    if (error)
        return error;
    _cleanup_free_ unsigned char *owned = self.bytes;
    error = fill_slots(&self, request, err);
    if (error)
        return error;
    qsort(self.exports, self.export_count, sizeof(self.exports[0]), compare_exports);
    write_hash(&self);
    write_symbols(&self);
    error = write_dynamic(&self, err);
    if (error)
        return error;
    fill_control(&self, request);
    set_build_id(&self, out->hash, sizeof(out->hash));
    out->size = self.size;
    out->control_offset = self.layout.control;
    out->bytes = steal_pointer(&owned);
    return 0;
}

void preload_release(struct preload *preload)
{
    free(preload->bytes);
    *preload = PRELOAD_NONE;
}
