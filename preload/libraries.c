/*
 * Finding the real function: a walk over the dynamic linker's list of loaded
 * objects (struct r_debug, kept for debuggers by every libc) with the same rules by
 * which the linker itself binds a reference.  Unlike dlsym(RTLD_NEXT) it sees the
 * libraries that were loaded RTLD_LOCAL, takes no locks and allocates nothing.
 *
 * The list may change under the walk.  Objects are only ever appended, already
 * mapped, and l_next is written last (glibc, _dl_add_to_namespace_list); while the
 * linker says that it is removing one the walk waits, but not for long: it may have
 * been called from a destructor that the very removal runs.
 */
#include "preload/shim.h"

#include <asm/unistd.h>
#include <elf.h>
#include <fcntl.h>

#ifndef PR_GET_AUXV
#define PR_GET_AUXV 0x41555856 /* Linux 6.4 */
#endif

#define OBJECTS_MAX  8192
#define REMOVAL_WAIT 64

/* glibc's and musl's <link.h>, the part that debuggers rely on. */
struct link_map {
    uint64_t l_addr;
    const char *l_name;
    Elf64_Dyn *l_ld;
    struct link_map *l_next, *l_prev;
};

struct r_debug {
    int r_version;
    struct link_map *r_map;
    uint64_t r_brk;
    enum { RT_CONSISTENT, RT_ADD, RT_DELETE } r_state;
    uint64_t r_ldbase;
};

/* One loaded object's tables. */
struct object {
    uint64_t base;
    const Elf64_Sym *symbols;
    const char *strings;
    const uint32_t *gnu_hash, *hash;
    const uint16_t *versym;
    const Elf64_Verdef *verdef;
    uint64_t verdef_count, soname;
    uint64_t debug; /* DT_DEBUG's value */
};

/* What is looked for. */
struct wanted {
    const char *name, *version;
    uint32_t gnu_hash, hash;
    bool data;    /* an object instead of a function */
    bool lenient; /* also what only a versioned reference would be bound to */
};

extern Elf64_Dyn own_dynamic[] __asm__("_DYNAMIC") __attribute__((visibility("hidden")));

static struct r_debug *debug_cache;

bool fz_equal(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

static bool starts_with(const char *text, const char *prefix)
{
    while (*prefix && *text == *prefix) {
        text++;
        prefix++;
    }
    return !*prefix;
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

/* glibc relocates these entries in place, musl and the vDSO do not. */
static const void *pointer_in(uint64_t base, uint64_t value)
{
    return (const void *)(uintptr_t)(value < base ? base + value : value);
}

static bool read_object(uint64_t base, const Elf64_Dyn *dynamic, struct object *out)
{
    *out = (struct object){.base = base};
    for (; dynamic && dynamic->d_tag != DT_NULL; dynamic++) {
        const void *pointer = pointer_in(base, dynamic->d_un.d_ptr);
        switch (dynamic->d_tag) {
        case DT_SYMTAB:
            out->symbols = pointer;
            break;
        case DT_STRTAB:
            out->strings = pointer;
            break;
        case DT_GNU_HASH:
            out->gnu_hash = pointer;
            break;
        case DT_HASH:
            out->hash = pointer;
            break;
        case DT_VERSYM:
            out->versym = pointer;
            break;
        case DT_VERDEF:
            out->verdef = pointer;
            break;
        case DT_VERDEFNUM:
            out->verdef_count = dynamic->d_un.d_val;
            break;
        case DT_SONAME:
            out->soname = dynamic->d_un.d_val;
            break;
        case DT_DEBUG:
            out->debug = dynamic->d_un.d_ptr;
            break;
        default:
            break;
        }
    }
    return out->symbols && out->strings && (out->gnu_hash || out->hash);
}

static const char *version_name(const struct object *object, uint16_t index)
{
    const Elf64_Verdef *definition = object->verdef;
    for (uint64_t i = 0; definition && i < object->verdef_count; i++) {
        if (definition->vd_ndx == index) {
            const Elf64_Verdaux *aux =
                (const void *)((const char *)definition + definition->vd_aux);
            return object->strings + aux->vda_name;
        }
        definition = (const void *)((const char *)definition + definition->vd_next);
    }
    return NULL;
}

static bool has_version(const struct object *object, uint32_t symbol, const struct wanted *wanted)
{
    if (!object->versym)
        return true;
    bool hidden = object->versym[symbol] & 0x8000;
    uint16_t index = object->versym[symbol] & 0x7fff;
    if (!wanted->version)
        return !hidden || wanted->lenient;
    const char *name = index >= 2 ? version_name(object, index) : NULL;
    if (!name)
        return !hidden && wanted->lenient;
    return fz_equal(name, wanted->version);
}

static bool is_match(const struct object *object, uint32_t index, const struct wanted *wanted)
{
    const Elf64_Sym *symbol = &object->symbols[index];
    unsigned type = ELF64_ST_TYPE(symbol->st_info);
    unsigned bind = ELF64_ST_BIND(symbol->st_info);
    bool right_type = wanted->data ? type == STT_OBJECT : type == STT_FUNC || type == STT_GNU_IFUNC;
    /* A function that an executable only takes the address of is undefined there
     * and has a value all the same. */
    return right_type && symbol->st_shndx != SHN_UNDEF && symbol->st_value != 0 &&
           (bind == STB_GLOBAL || bind == STB_WEAK || bind == STB_GNU_UNIQUE) &&
           fz_equal(object->strings + symbol->st_name, wanted->name) &&
           has_version(object, index, wanted);
}

static const Elf64_Sym *find_by_gnu_hash(const struct object *object, const struct wanted *wanted)
{
    const uint32_t *table = object->gnu_hash;
    uint32_t bucket_count = table[0], first = table[1], words = table[2], shift = table[3];
    const uint64_t *bloom = (const uint64_t *)(table + 4);
    const uint32_t *buckets = (const uint32_t *)(bloom + words);
    const uint32_t *chain = buckets + bucket_count;
    uint32_t hash = wanted->gnu_hash;
    if (!bucket_count || !words)
        return NULL;
    uint64_t word = bloom[hash / 64 % words];
    if (!(word >> hash % 64 & word >> (hash >> shift) % 64 & 1))
        return NULL;
    uint32_t index = buckets[hash % bucket_count];
    for (; index >= first && index; index++) {
        uint32_t other = chain[index - first];
        if ((other | 1) == (hash | 1) && is_match(object, index, wanted))
            return &object->symbols[index];
        if (other & 1)
            break;
    }
    return NULL;
}

static const Elf64_Sym *find_by_sysv_hash(const struct object *object, const struct wanted *wanted)
{
    uint32_t bucket_count = object->hash[0];
    const uint32_t *buckets = object->hash + 2, *chain = buckets + bucket_count;
    if (!bucket_count)
        return NULL;
    for (uint32_t index = buckets[wanted->hash % bucket_count]; index; index = chain[index])
        if (is_match(object, index, wanted))
            return &object->symbols[index];
    return NULL;
}

static const Elf64_Sym *find_in_object(const struct object *object, const struct wanted *wanted)
{
    return object->gnu_hash ? find_by_gnu_hash(object, wanted) : find_by_sysv_hash(object, wanted);
}

/* The r_debug that the object with these program headers tells of: an executable by
 * DT_DEBUG, the dynamic linker by its symbol. */
static struct r_debug *debug_from_headers(uint64_t base, const Elf64_Phdr *headers, uint64_t count)
{
    const Elf64_Dyn *dynamic = NULL;
    for (uint64_t i = 0; i < count; i++)
        if (headers[i].p_type == PT_DYNAMIC)
            dynamic = (const void *)(uintptr_t)(base + headers[i].p_vaddr);
    struct object object;
    bool has_symbols = read_object(base, dynamic, &object);
    if (object.debug)
        return (struct r_debug *)(uintptr_t)object.debug;
    struct wanted wanted = {.name = "_r_debug",
                            .gnu_hash = hash_gnu("_r_debug"),
                            .hash = hash_sysv("_r_debug"),
                            .data = true};
    const Elf64_Sym *symbol = has_symbols ? find_in_object(&object, &wanted) : NULL;
    return symbol ? (struct r_debug *)(uintptr_t)(base + symbol->st_value) : NULL;
}

static struct r_debug *debug_from_start(uint64_t start)
{
    const Elf64_Ehdr *header = (const void *)(uintptr_t)start;
    if (!start || header->e_ident[0] != 0x7f || header->e_ident[1] != 'E')
        return NULL;
    return debug_from_headers(start, (const void *)(uintptr_t)(start + header->e_phoff),
                              header->e_phnum);
}

static uint64_t read_auxv(Elf64_auxv_t *entries, uint64_t size)
{
    long n = fz_syscall(__NR_prctl, PR_GET_AUXV, FZ_POINTER(entries), size, 0, 0, 0);
    if (n > 0)
        return (uint64_t)n < size ? (uint64_t)n : size;
    long fd =
        fz_syscall(__NR_open, FZ_POINTER("/proc/self/auxv"), O_RDONLY | O_CLOEXEC, 0, 0, 0, 0);
    if (fd < 0)
        return 0;
    n = fz_syscall(__NR_read, (uint64_t)fd, FZ_POINTER(entries), size, 0, 0, 0);
    fz_syscall(__NR_close, (uint64_t)fd, 0, 0, 0, 0, 0);
    return n > 0 ? (uint64_t)n : 0;
}

static struct r_debug *find_debug(void)
{
    struct r_debug *known = fz_load(&debug_cache);
    if (known)
        return known;
    Elf64_auxv_t entries[40];
    uint64_t count = read_auxv(entries, sizeof(entries)) / sizeof(entries[0]);
    uint64_t headers = 0, header_count = 0, linker = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (entries[i].a_type == AT_PHDR)
            headers = entries[i].a_un.a_val;
        else if (entries[i].a_type == AT_PHNUM)
            header_count = entries[i].a_un.a_val;
        else if (entries[i].a_type == AT_BASE)
            linker = entries[i].a_un.a_val;
    }
    const Elf64_Phdr *header = (const void *)(uintptr_t)headers;
    struct r_debug *debug = NULL;
    for (uint64_t i = 0; headers && i < header_count && !debug; i++)
        if (header[i].p_type == PT_PHDR)
            debug = debug_from_headers(headers - header[i].p_vaddr, header, header_count);
    /* The dynamic linker; started as a command (ld.so PROGRAM) it is what the kernel
     * takes for the executable. */
    if (!debug)
        debug = debug_from_start(linker ? linker : headers - sizeof(Elf64_Ehdr));
    if (debug)
        fz_store(&debug_cache, debug);
    return debug;
}

static struct link_map *first_object(void)
{
    struct r_debug *debug = find_debug();
    for (int i = 0; debug && i < REMOVAL_WAIT && fz_load(&debug->r_state) == RT_DELETE; i++)
        fz_syscall(__NR_sched_yield, 0, 0, 0, 0, 0, 0);
    return debug ? fz_load(&debug->r_map) : NULL;
}

/* Is it to be searched in this pass?  First what comes after this library, then, for
 * what a global search would not reach, the rest. */
static bool is_searched(const struct link_map *map, bool after_own, bool passed_own)
{
    return map->l_ld != own_dynamic && after_own == passed_own &&
           !(map->l_name && starts_with(map->l_name, "linux-vdso"));
}

static bool search(const struct wanted *wanted, bool after_own, struct fz_found *found)
{
    bool passed_own = false;
    struct link_map *map = first_object();
    for (int i = 0; map && i < OBJECTS_MAX; i++, map = fz_load(&map->l_next)) {
        struct object object;
        const Elf64_Sym *symbol = NULL;
        if (map->l_ld == own_dynamic)
            passed_own = true;
        else if (is_searched(map, after_own, passed_own) &&
                 read_object(map->l_addr, map->l_ld, &object))
            symbol = find_in_object(&object, wanted);
        if (!symbol)
            continue;
        uint64_t address = symbol->st_value + map->l_addr;
        if (ELF64_ST_TYPE(symbol->st_info) == STT_GNU_IFUNC)
            address = fz_call_resolver(address);
        *found = (struct fz_found){.address = address,
                                   .object = FZ_POINTER(map->l_ld),
                                   .path = map->l_name ? map->l_name : "",
                                   .soname = object.soname ? object.strings + object.soname : NULL};
        return true;
    }
    return false;
}

bool fz_find_function(const char *name, const char *version, struct fz_found *found)
{
    struct wanted wanted = {
        .name = name, .version = version, .gnu_hash = hash_gnu(name), .hash = hash_sysv(name)};
    for (int lenient = 0; lenient < 2; lenient++) {
        wanted.lenient = lenient;
        if (search(&wanted, true, found) || search(&wanted, false, found))
            return true;
    }
    return false;
}

bool fz_object_is_loaded(uint64_t l_ld)
{
    struct link_map *map = first_object();
    for (int i = 0; map && i < OBJECTS_MAX; i++, map = fz_load(&map->l_next))
        if (FZ_POINTER(map->l_ld) == l_ld)
            return true;
    return false;
}
