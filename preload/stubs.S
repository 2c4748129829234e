/*
 * The entry points, and the reserved tables that the launcher fills.
 *
 * An un-due call costs one locked addition and three predicted branches.  r11 is
 * the only register that belongs to nobody at a function's entry (the psABI gives
 * it to the linker); flags are free too.  Everything else is as the caller left it
 * when the real function starts, the stack pointer included.
 */
#include "preload/abi.h"

    .section .note.gnu.property, "a", @note
    .balign 8
    .long 4, 16, 5
    .asciz "GNU"
    .long 0xc0000002, 4, 1, 0 /* x86 feature 1: IBT */

    .section .fz_build_id, "a", @note /* ld drops those that have the usual name */
    .balign 4
    .long 4, FZ_BUILD_ID_SIZE, 3 /* NT_GNU_BUILD_ID */
    .asciz "GNU"
    .globl fz_build_id
    .hidden fz_build_id
fz_build_id:
    .skip FZ_BUILD_ID_SIZE

    .text

#define SLOT(i)    fz_slots + FZ_SLOT_SIZE * (i)
#define COUNTER(i) fz_control + FZ_COUNTERS_OFFSET + FZ_COUNTER_SIZE * (i)
#define STATE      8

    .balign 64
    .globl fz_stubs
    .hidden fz_stubs
fz_stubs:
    .set .Lslot, 0
    .rept FZ_SLOT_MAX
    .org fz_stubs + .Lslot * FZ_STUB_SIZE, 0xcc /* an error where a stub has grown too large */
    .cfi_startproc
    endbr64
    cmpb $FZ_STATE_COUNTED, SLOT(.Lslot) + STATE(%rip)
    jne 2f
    .if .Lslot == 0
fz_operand_1:
    .endif
    cmpq $-1, COUNTER(.Lslot) + FZ_DUE_OFFSET(%rip)
    je 1f
    movl $1, %r11d
    .if .Lslot == 0
fz_operand_2:
    .endif
    lock xaddq %r11, COUNTER(.Lslot)(%rip)
    incq %r11
    .if .Lslot == 0
fz_operand_3:
    .endif
    cmpq COUNTER(.Lslot) + FZ_DUE_OFFSET(%rip), %r11
    jae 3f
1:  jmp *SLOT(.Lslot)(%rip)
    .cfi_endproc

    .subsection 1
    .cfi_startproc
2:  cmpb $FZ_STATE_PASSED, SLOT(.Lslot) + STATE(%rip)
    je 4f
    pushq $0
    .cfi_adjust_cfa_offset 8
    pushq $.Lslot
    .cfi_adjust_cfa_offset 8
    jmp fz_enter_saved
    .cfi_adjust_cfa_offset -16
3:  pushq %r11
    .cfi_adjust_cfa_offset 8
    pushq $.Lslot
    .cfi_adjust_cfa_offset 8
    jmp fz_enter_saved
    .cfi_adjust_cfa_offset -16
4:  jmp *SLOT(.Lslot)(%rip)
    .cfi_endproc
    .previous
    .set .Lslot, .Lslot + 1
    .endr

    .rept FZ_SLOT_TOTAL - FZ_SLOT_MAX
    .org fz_stubs + .Lslot * FZ_STUB_SIZE, 0xcc
    .cfi_startproc
    endbr64
    pushq $0
    .cfi_adjust_cfa_offset 8
    pushq $.Lslot
    .cfi_adjust_cfa_offset 8
    jmp fz_enter_saved
    .cfi_endproc
    .set .Lslot, .Lslot + 1
    .endr
    .org fz_stubs + FZ_SLOT_TOTAL * FZ_STUB_SIZE, 0xcc

    /* The operand's place in each instruction: behind its prefixes and opcode. */
    .globl fz_operand_at_1, fz_operand_at_2, fz_operand_at_3
    .hidden fz_operand_at_1, fz_operand_at_2, fz_operand_at_3
    .set fz_operand_at_1, fz_operand_1 + 3
    .set fz_operand_at_2, fz_operand_2 + 5
    .set fz_operand_at_3, fz_operand_3 + 3

/*
 * On the stack: the slot, the number, the caller's return address.  Saves what can
 * carry arguments (struct fz_frame), lets fz_enter() decide, and goes on to the
 * address it gives.  A jump rather than a return: a shadow stack would object.
 */
    .subsection 2
    .balign 16
    .type fz_enter_saved, @function
fz_enter_saved:
    .cfi_startproc
    .cfi_def_cfa_offset 24
    .irp register, r10, rax, r9, r8, rcx, rdx, rsi, rdi
    pushq %\register
    .cfi_adjust_cfa_offset 8
    .endr
    movq %rsp, %rdi
    subq $8, %rsp
    .cfi_adjust_cfa_offset 8
    call fz_enter
    movq %rax, %r11
    addq $8, %rsp
    .cfi_adjust_cfa_offset -8
    .irp register, rdi, rsi, rdx, rcx, r8, r9, rax, r10
    popq %\register
    .cfi_adjust_cfa_offset -8
    .endr
    addq $16, %rsp
    .cfi_adjust_cfa_offset -16
    jmp *%r11
    .cfi_endproc
    .size fz_enter_saved, . - fz_enter_saved

    .globl fz_absent
    .hidden fz_absent
    .type fz_absent, @function
fz_absent:
    .cfi_startproc
    endbr64
    xorl %eax, %eax
    ret
    .cfi_endproc
    .size fz_absent, . - fz_absent

    .globl fz_call_resolver
    .hidden fz_call_resolver
    .type fz_call_resolver, @function
fz_call_resolver:
    .cfi_startproc
    pushq %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    movq %rsp, %rbp
    .cfi_def_cfa_register %rbp
    subq $512, %rsp
    andq $-16, %rsp
    fxsave64 (%rsp)
    call *%rdi
    fxrstor64 (%rsp)
    leave
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    .size fz_call_resolver, . - fz_call_resolver

    .hidden fz_control, fz_slots, fz_enter

    .section .fz_hash, "a", @progbits
    .balign 64
    .skip FZ_HASH_SIZE

    .section .fz_symbols, "a", @progbits
    .balign 8
    .skip 24 * FZ_SYMBOLS_MAX

    .section .fz_versym, "a", @progbits
    .balign 2
    .skip 2 * FZ_SYMBOLS_MAX

    .section .fz_verdef, "a", @progbits
    .balign 8
    .skip FZ_VERDEF_SIZE

    .section .fz_strings, "a", @progbits
    .globl fz_strings
    .hidden fz_strings
fz_strings:
    .skip FZ_STRINGS_SIZE

    .section .stapsdt.base, "a", @progbits
    .globl fz_probe_base
    .hidden fz_probe_base
fz_probe_base: /* preload/usdt.c */
    .skip 1

    .section .note.GNU-stack, "", @progbits
