/*
 * The static tracepoint freezepoint:point, for bpftrace and perf.
 *
 * It is a nop and an ELF note of SystemTap's format that says where the nop is and
 * which registers hold the arguments: nothing more happens until a tracer has the
 * kernel put a breakpoint there.  Its readers (libbpf's usdt.c, bcc, perf) find the
 * note by its section's name, and correct its addresses by how far .stapsdt.base
 * (stubs.S) is from where the note says.  The note is not loaded: there its addresses
 * would need relocations.
 *
 * The kernel puts the breakpoint into a copy of the page that is the process's own, so
 * a dump that is taken under a tracer has it.  It would end a restored program which
 * nobody traces: there the code is taken from the library's file again.  A thread that
 * is dumped by another one's hit, between that look and the nop, would run into it.
 */
#include "preload/shim.h"

#include <asm/unistd.h>

/* As in <sys/mman.h>, which is libc's. */
#define MADV_DONTDUMP        16
#define MADV_DODUMP          17
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18: also after mlockall() */

#define NOP       0x90
#define PAGE_SIZE 4096

#pragma GCC visibility push(hidden)
extern const unsigned char code_begin[] __asm__("__ehdr_start"); /* preload.lds: the file's, */
extern const unsigned char code_end[] __asm__("_DYNAMIC");       /* and where data begins */
extern const volatile unsigned char probe[] __asm__(".Lprobe");
#pragma GCC visibility pop

static uint64_t renewed_generation;

static void advise(size_t size, uint64_t advice)
{
    fz_syscall(__NR_madvise, FZ_POINTER(code_begin), size, advice, 0, 0, 0);
}

/* That loses the breakpoint of a tracer which is there now.  Splitting the mapping has
 * the kernel put it back (mm/vma.c, vma_complete() calls uprobe_mmap()). */
static void renew_code(void)
{
    advise(FZ_POINTER(code_end) - FZ_POINTER(code_begin), MADV_DONTNEED_LOCKED);
    advise(PAGE_SIZE, MADV_DONTDUMP);
    advise(PAGE_SIZE, MADV_DODUMP);
}

/* Not inlined, so that there is one nop and one note.  A nop of one byte, as
 * SystemTap's: the kernel emulates it.  In the note, 3 is NT_STAPSDT, and the third
 * address is that of a semaphore: none.  8@ is an unsigned argument of 8 bytes. */
__attribute__((noinline, noclone)) void fz_probe_point(uint64_t rule, uint64_t hit)
{
    uint64_t generation = fz_load(&fz_control.generation);
    if (fz_load(&renewed_generation) != generation) {
        if (*probe != NOP)
            renew_code();
        fz_store(&renewed_generation, generation);
    }
    __asm__ volatile(".Lprobe: nop\n"
                     ".pushsection .note.stapsdt, \"\", @note\n"
                     ".balign 4\n"
                     ".4byte 2f - 1f, 4f - 3f, 3\n"
                     "1: .asciz \"stapsdt\"\n"
                     "2: .balign 4\n"
                     "3: .8byte .Lprobe, fz_probe_base, 0\n"
                     ".asciz \"freezepoint\"\n"
                     ".asciz \"point\"\n"
                     ".asciz \"8@%0 8@%1\"\n"
                     "4: .balign 4\n"
                     ".popsection\n"
                     :
                     : "r"(rule), "r"(hit));
}
