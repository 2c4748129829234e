/* The preload library as built, before trigger/preload.c fills it in. */
    .section .rodata
    .balign 64
    .globl preload_template, preload_template_end
preload_template:
    .incbin "preload.so"
preload_template_end:

    .section .note.GNU-stack, "", @progbits
