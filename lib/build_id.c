#include "lib/build_id.h"

#include <gelf.h>
#include <libelf.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define HEADERS_MAX 256
#define NOTES_MAX   ((size_t)64 << 10)

static void end_elf(Elf **elf)
{
    if (*elf)
        elf_end(*elf);
}

static bool is_elf(int fd)
{
    char head[SELFMAG];
    return pread(fd, head, sizeof(head), 0) == (ssize_t)sizeof(head) &&
           !memcmp(head, ELFMAG, SELFMAG);
}

static size_t find_note(Elf_Data *notes, uint8_t id[BUILD_ID_MAX])
{
    size_t offset = 0, name, descriptor;
    GElf_Nhdr note;
    while ((offset = gelf_getnote(notes, offset, &note, &name, &descriptor)) > 0) {
        const char *bytes = notes->d_buf;
        if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != sizeof(ELF_NOTE_GNU) ||
            memcmp(bytes + name, ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU)) != 0 || note.n_descsz == 0 ||
            note.n_descsz > BUILD_ID_MAX)
            continue;
        memcpy(id, bytes + descriptor, note.n_descsz);
        return note.n_descsz;
    }
    return 0;
}

size_t build_id_read(int fd, uint8_t id[BUILD_ID_MAX])
{
    size_t count = 0, size = 0;
    if (!is_elf(fd) || elf_version(EV_CURRENT) == EV_NONE)
        return 0;
    /* Read, not mapped: the file may be cut short at any moment. */
    __attribute__((cleanup(end_elf))) Elf *elf = elf_begin(fd, ELF_C_READ, NULL);
    if (!elf || elf_kind(elf) != ELF_K_ELF || elf_getphdrnum(elf, &count))
        return 0;
    count = count < HEADERS_MAX ? count : HEADERS_MAX;
    for (size_t i = 0; i < count && size == 0; i++) {
        GElf_Phdr header;
        if (!gelf_getphdr(elf, (int)i, &header) || header.p_type != PT_NOTE ||
            header.p_filesz > NOTES_MAX)
            continue;
        Elf_Data *notes = elf_getdata_rawchunk(elf, (int64_t)header.p_offset, header.p_filesz,
                                               header.p_align == 8 ? ELF_T_NHDR8 : ELF_T_NHDR);
        size = notes ? find_note(notes, id) : 0;
    }
    return size;
}
