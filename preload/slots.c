/*
 * Which way a call goes when its stub cannot just count it and jump: the function
 * behind the slot has to be found first, or a hit is due, or it is one of the few
 * functions that are wrapped so that the others stay reachable:
 *
 *   dlsym, dlvsym  a library's function asked for by handle would go past the
 *                  stub; where the answer is a slot's target the stub is returned;
 *   dlclose        a target whose library is gone is forgotten;
 *   __libc_start_main  brings the address of `main`.
 */
#include "preload/shim.h"

/* Not NULL and not RTLD_NEXT (dlfcn.h): only then is the answer independent of
 * who asks. */
#define HANDLE_DEFAULT 0
#define HANDLE_NEXT    UINT64_MAX

struct fz_slot fz_slots[FZ_SLOT_TOTAL] __attribute__((section(".data"), aligned(64)));
uint32_t fz_main_slot __attribute__((section(".data")));

static uint64_t stub_of(uint32_t slot)
{
    return FZ_POINTER(fz_stubs) + (uint64_t)slot * FZ_STUB_SIZE;
}

static bool is_wanted_library(const struct fz_slot *slot, const struct fz_found *found)
{
    if (!slot->library)
        return true;
    const char *pattern = fz_strings + slot->library;
    return fz_library_matches(pattern, found->path) ||
           (found->soname && fz_library_matches(pattern, found->soname));
}

/* Any number of threads may do this at once: they write the same. */
static bool resolve(struct fz_slot *slot)
{
    if (fz_load(&slot->state) != FZ_STATE_UNRESOLVED)
        return true;
    if (!slot->name)
        return false;
    const char *version = slot->version ? fz_strings + slot->version : NULL;
    struct fz_found found;
    int walk = fz_begin_walk();
    bool is_there = fz_find_function(fz_strings + slot->name, version, &found);
    if (is_there) {
        fz_store(&slot->target, found.address);
        fz_store(&slot->object, found.object);
        fz_store(&slot->state,
                 is_wanted_library(slot, &found) ? FZ_STATE_COUNTED : FZ_STATE_PASSED);
    }
    fz_end_walk(walk);
    return is_there;
}

void fz_resolve_all(void)
{
    for (uint32_t i = 0; i < FZ_SLOT_TOTAL; i++)
        if (resolve(&fz_slots[i]))
            fz_store(&fz_slots[i].object, 0); /* there from the start: never unloaded */
}

/* The stub of the slot whose target is what dlsym() found, or what it found. */
static uint64_t stub_for(uint64_t address, const char *name)
{
    for (uint32_t i = 0; address && i < FZ_SLOT_MAX; i++) {
        struct fz_slot *slot = &fz_slots[i];
        if (slot->name && fz_equal(fz_strings + slot->name, name) && resolve(slot) &&
            fz_load(&slot->target) == address && fz_load(&slot->state) == FZ_STATE_COUNTED)
            return stub_of(i);
    }
    return address;
}

static uint64_t dlsym_checked(uint64_t handle, const char *name)
{
    uint64_t (*real)(uint64_t, const char *) =
        (void *)(uintptr_t)fz_load(&fz_slots[FZ_SLOT_DLSYM].target);
    return stub_for(real(handle, name), name);
}

static uint64_t dlvsym_checked(uint64_t handle, const char *name, const char *version)
{
    uint64_t (*real)(uint64_t, const char *, const char *) =
        (void *)(uintptr_t)fz_load(&fz_slots[FZ_SLOT_DLVSYM].target);
    return stub_for(real(handle, name, version), name);
}

static int dlclose_checked(uint64_t handle)
{
    int (*real)(uint64_t) = (void *)(uintptr_t)fz_load(&fz_slots[FZ_SLOT_DLCLOSE].target);
    int unload = fz_begin_unload();
    int result = real(handle);
    fz_end_unload(unload);
    int walk = fz_begin_walk();
    for (uint32_t i = 0; i < FZ_SLOT_MAX; i++) {
        struct fz_slot *slot = &fz_slots[i];
        /* The target stays: another thread may be between its two looks. */
        if (fz_load(&slot->state) != FZ_STATE_UNRESOLVED && fz_load(&slot->object) &&
            !fz_object_is_loaded(fz_load(&slot->object)))
            fz_store(&slot->state, FZ_STATE_UNRESOLVED);
    }
    fz_end_walk(walk);
    return result;
}

/* Only names of ours asked for by handle take the detour; all other calls jump, so
 * that libdl sees the true caller. */
static bool is_detour(const struct fz_frame *frame)
{
    const char *name = (const char *)(uintptr_t)frame->rsi;
    if (frame->rdi == HANDLE_DEFAULT || frame->rdi == HANDLE_NEXT || !name)
        return false;
    for (uint32_t i = 0; i < FZ_SLOT_MAX; i++)
        if (fz_slots[i].name && fz_equal(fz_strings + fz_slots[i].name, name))
            return true;
    return false;
}

static uint64_t enter_special(struct fz_frame *frame)
{
    struct fz_slot *slot = &fz_slots[frame->slot];
    if (!resolve(slot))
        return FZ_POINTER(fz_absent);
    switch (frame->slot) {
    case FZ_SLOT_DLSYM:
        return is_detour(frame) ? FZ_POINTER(dlsym_checked) : fz_load(&slot->target);
    case FZ_SLOT_DLVSYM:
        return is_detour(frame) ? FZ_POINTER(dlvsym_checked) : fz_load(&slot->target);
    case FZ_SLOT_DLCLOSE:
        return FZ_POINTER(dlclose_checked);
    case FZ_SLOT_START_MAIN:
    case FZ_SLOT_START_MAIN_OLD:
        if (fz_main_slot && fz_main_slot <= FZ_SLOT_MAX) {
            struct fz_slot *entry = &fz_slots[fz_main_slot - 1];
            fz_store(&entry->target, frame->rdi);
            fz_store(&entry->state, FZ_STATE_COUNTED);
            frame->rdi = stub_of(fz_main_slot - 1);
        }
        return fz_load(&slot->target);
    default:
        return FZ_POINTER(fz_absent);
    }
}

uint64_t fz_enter(struct fz_frame *frame)
{
    if (frame->slot >= FZ_SLOT_MAX)
        return enter_special(frame);
    struct fz_slot *slot = &fz_slots[frame->slot];
    if (frame->number) {
        fz_hit((uint32_t)frame->slot, frame->number);
        return fz_load(&slot->target);
    }
    if (!resolve(slot))
        return FZ_POINTER(fz_absent);
    return stub_of((uint32_t)frame->slot); /* once more, now counted */
}
