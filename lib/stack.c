#include "lib/stack.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <elfutils/libdwfl.h>

#include "lib/fd.h"

#define COPY_MAX  (256 * 1024)
#define STEP      (16 * 1024)
#define MAPS_MAX  (4 * 1024 * 1024)
#define SP_NUMBER 7

/* What is used of libdw. */
#define FUNCTIONS(X)                                                                               \
    X(dwfl_begin)                                                                                  \
    X(dwfl_end)                                                                                    \
    X(dwfl_errmsg)                                                                                 \
    X(dwfl_linux_proc_maps_report)                                                                 \
    X(dwfl_report_end)                                                                             \
    X(dwfl_linux_proc_find_elf)                                                                    \
    X(dwfl_build_id_find_debuginfo)                                                                \
    X(dwfl_attach_state)                                                                           \
    X(dwfl_thread_state_registers)                                                                 \
    X(dwfl_getthread_frames)                                                                       \
    X(dwfl_frame_pc)                                                                               \
    X(dwfl_addrmodule)                                                                             \
    X(dwfl_module_info)                                                                            \
    X(dwfl_module_getelf)                                                                          \
    X(dwfl_module_build_id)                                                                        \
    X(dwfl_module_addrinfo)

static struct {
    void *handle;
#define FIELD(name) __typeof__(&(name)) name; /* NOLINT(bugprone-macro-parentheses) */
    FUNCTIONS(FIELD)
#undef FIELD
} dw;

static int load_libdw(struct err *err)
{
    if (dw.handle)
        return 0;
    void *handle = dlopen("libdw.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return err_lack(err, "no stacks: %s; install libdw1 (elfutils)", dlerror());
#define FIND(name)                                                                                 \
    dw.name = (__typeof__(dw.name))dlsym(handle, #name);                                           \
    if (!dw.name) {                                                                                \
        dlclose(handle);                                                                           \
        return err_lack(err, "no stacks: libdw.so.1 lacks " #name);                                \
    }
    FUNCTIONS(FIND)
#undef FIND
    dw.handle = handle;
    return 0;
}

/* ---- the copy ---- */

/* As much as there is above the stack pointer. */
static int copy_bytes(struct stack *stack)
{
    stack->bytes = malloc(COPY_MAX);
    if (!stack->bytes)
        return -ENOMEM;
    while (stack->size < COPY_MAX) {
        struct iovec ours = {(char *)stack->bytes + stack->size, STEP};
        struct iovec theirs = {(void *)(stack->bottom + stack->size), STEP};
        ssize_t n = process_vm_readv(stack->pid, &ours, 1, &theirs, 1, 0);
        if (n <= 0)
            break;
        stack->size += (size_t)n;
        if (n < STEP)
            break;
    }
    return stack->size ? 0 : -EFAULT;
}

int stack_copy_maps(struct stack *stack)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/maps", stack->pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t room = 64 * 1024;
    for (;;) {
        char *larger = room > MAPS_MAX ? NULL : realloc(stack->maps, room);
        if (!larger)
            return -ENOMEM;
        stack->maps = larger;
        ssize_t n = fd_read_all(fd, stack->maps + stack->maps_size, room - stack->maps_size);
        if (n < 0)
            return (int)n;
        stack->maps_size += (size_t)n;
        if (stack->maps_size < room)
            return 0;
        room *= 2;
    }
}

int stack_copy(pid_t pid, const uint64_t registers[STACK_REGISTERS], struct stack *out)
{
    struct stack stack = {.pid = pid, .bottom = registers[SP_NUMBER]};
    memcpy(stack.registers, registers, sizeof(stack.registers));
    int error = copy_bytes(&stack);
    if (!error)
        error = stack_copy_maps(&stack);
    if (error)
        stack_free(&stack);
    else
        *out = stack;
    return error;
}

void stack_free(struct stack *stack)
{
    free(stack->bytes);
    free(stack->maps);
    *stack = STACK_NONE;
}

/* ---- the walk ---- */

struct stack_walker {
    Dwfl *dwfl;
    pid_t pid;
    const struct stack *stack; /* that is being walked */
};

static pid_t next_thread(Dwfl *dwfl, void *context, void **thread)
{
    (void)dwfl;
    const struct stack_walker *walker = context;
    bool first = !*thread;
    *thread = context;
    return first ? walker->pid : 0;
}

static bool get_thread(Dwfl *dwfl, pid_t tid, void *context, void **thread)
{
    (void)dwfl;
    (void)tid;
    *thread = context;
    return true;
}

static bool read_memory(Dwfl *dwfl, Dwarf_Addr address, Dwarf_Word *result, void *context)
{
    (void)dwfl;
    const struct stack *stack = ((const struct stack_walker *)context)->stack;
    if (stack->size < sizeof(uint64_t) || address < stack->bottom ||
        address - stack->bottom > stack->size - sizeof(uint64_t))
        return false;
    memcpy(result, (const char *)stack->bytes + (address - stack->bottom), sizeof(uint64_t));
    return true;
}

static bool set_registers(Dwfl_Thread *thread, void *context)
{
    const struct stack *stack = ((const struct stack_walker *)context)->stack;
    return dw.dwfl_thread_state_registers(thread, 0, STACK_REGISTERS,
                                          (const Dwarf_Word *)stack->registers);
}

struct walk {
    Dwfl *dwfl;
    size_t count, max;
    void (*visit)(const struct stack_frame *frame, void *context);
    void *context;
};

/* `pc` lies in the call that a frame waits for, not behind it. */
static void name_frame(const struct walk *walk, Dwarf_Addr pc, struct stack_frame *frame)
{
    Dwfl_Module *module = dw.dwfl_addrmodule(walk->dwfl, pc);
    if (!module)
        return;
    const char *file = NULL,
               *name = dw.dwfl_module_info(module, NULL, NULL, NULL, NULL, NULL, &file, NULL);
    GElf_Addr bias = 0, address;
    GElf_Sym symbol;
    dw.dwfl_module_getelf(module, &bias);
    frame->module = file ? file : name;
    frame->offset = frame->address - bias;
    int size = dw.dwfl_module_build_id(module, &frame->build_id, &address);
    frame->build_id_size = size > 0 ? (size_t)size : 0;
    frame->symbol =
        dw.dwfl_module_addrinfo(module, pc, &frame->symbol_offset, &symbol, NULL, NULL, NULL);
    frame->symbol_offset += frame->symbol ? frame->address - pc : 0;
}

static int visit_frame(Dwfl_Frame *state, void *context)
{
    struct walk *walk = context;
    Dwarf_Addr pc;
    bool is_activation;
    if (walk->count == walk->max || !dw.dwfl_frame_pc(state, &pc, &is_activation))
        return DWARF_CB_ABORT;
    struct stack_frame frame = {.address = pc};
    name_frame(walk, pc - (is_activation ? 0 : 1), &frame);
    walk->visit(&frame, walk->context);
    walk->count++;
    return DWARF_CB_OK;
}

static int report_modules(Dwfl *dwfl, const struct stack *stack)
{
    if (!stack->maps_size)
        return -EIO;
    _cleanup_fclose_ FILE *maps = fmemopen(stack->maps, stack->maps_size, "r");
    return maps && dw.dwfl_linux_proc_maps_report(dwfl, maps) == 0 &&
                   dw.dwfl_report_end(dwfl, NULL, NULL) == 0
               ? 0
               : -EIO;
}

int stack_walker_open(const struct stack *stack, struct stack_walker **out, struct err *err)
{
    static const Dwfl_Thread_Callbacks threads = {.next_thread = next_thread,
                                                  .get_thread = get_thread,
                                                  .memory_read = read_memory,
                                                  .set_initial_registers = set_registers};
    int error = load_libdw(err);
    if (error)
        return error;
    /* By build id alone, which leads below /usr/lib/debug: by name it would open what the
     * program's own directory has there, even a FIFO, and after that ask the network. */
    static Dwfl_Callbacks files;
    files = (Dwfl_Callbacks){.find_elf = dw.dwfl_linux_proc_find_elf,
                             .find_debuginfo = dw.dwfl_build_id_find_debuginfo};
    struct stack_walker *walker = calloc(1, sizeof(*walker));
    if (!walker)
        return err_set(err, ENOMEM, "stack");
    walker->pid = stack->pid;
    walker->stack = stack;
    walker->dwfl = dw.dwfl_begin(&files);
    if (!walker->dwfl || report_modules(walker->dwfl, stack) ||
        !dw.dwfl_attach_state(walker->dwfl, NULL, walker->pid, &threads, walker)) {
        error = err_text(err, EIO, "libdw: %s", dw.dwfl_errmsg(-1));
        stack_walker_close(walker);
        return error;
    }
    *out = walker;
    return 0;
}

int stack_walker_walk(struct stack_walker *walker, const struct stack *stack, size_t max,
                      void (*visit)(const struct stack_frame *frame, void *context), void *context)
{
    struct walk walk = {.dwfl = walker->dwfl, .max = max, .visit = visit, .context = context};
    walker->stack = stack;
    /* It ends with an error where the outermost frame's tables do not say so. */
    dw.dwfl_getthread_frames(walker->dwfl, walker->pid, visit_frame, &walk);
    return (int)walk.count;
}

void stack_walker_name(struct stack_walker *walker, uint64_t address, bool is_return,
                       void (*visit)(const struct stack_frame *frame, void *context), void *context)
{
    const struct walk walk = {.dwfl = walker->dwfl};
    struct stack_frame frame = {.address = address};
    name_frame(&walk, address - is_return, &frame);
    visit(&frame, context);
}

void stack_walker_close(struct stack_walker *walker)
{
    if (walker && walker->dwfl)
        dw.dwfl_end(walker->dwfl);
    free(walker);
}

int stack_walk(const struct stack *stack, size_t max,
               void (*visit)(const struct stack_frame *frame, void *context), void *context,
               struct err *err)
{
    struct stack_walker *walker = NULL;
    int error = stack_walker_open(stack, &walker, err);
    if (!walker)
        return error;
    int count = stack_walker_walk(walker, stack, max, visit, context);
    stack_walker_close(walker);
    return count;
}
