#include "trigger/frame_table.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

/* How numbers are written (DW_EH_PE_*): the low four bits say in how many bytes, the next
 * three from where they count. */
#define FORMAT         0x0f
#define FORMAT_ADDRESS 0x00
#define FORMAT_UDATA4  0x03
#define FORMAT_UDATA8  0x04
#define FORMAT_SDATA4  0x0b
#define FORMAT_SDATA8  0x0c

/* The only forms of .eh_frame_hdr that linkers write: four signed bytes, from where the
 * number itself is, and from where the section begins. */
#define FROM_PLACE   0x1b
#define FROM_SECTION 0x3b

/* Bytes of the file from some address on; once something is not there, `failed`. */
struct reader {
    const uint8_t *at, *end;
    bool failed;
};

static struct reader read_at(const struct elf_file *file, uint64_t address)
{
    size_t size = 0;
    const char *bytes = elf_rawfile(file->elf, &size);
    uint64_t offset = 0;
    if (!bytes || elf_file_find(file, address, PF_R, &offset) || offset >= size)
        return (struct reader){.failed = true};
    const uint8_t *at = (const uint8_t *)bytes + offset;
    return (struct reader){.at = at, .end = at + (size - offset)};
}

static void take(struct reader *reader, void *out, size_t size)
{
    reader->failed |= (size_t)(reader->end - reader->at) < size;
    memset(out, 0, size);
    if (reader->failed)
        return;
    memcpy(out, reader->at, size);
    reader->at += size;
}

static uint8_t take_byte(struct reader *reader)
{
    uint8_t byte;
    take(reader, &byte, sizeof(byte));
    return byte;
}

static uint32_t take_word(struct reader *reader)
{
    uint32_t word;
    take(reader, &word, sizeof(word));
    return word;
}

/* A number of any length (LEB128), whose value does not matter. */
static void skip_number(struct reader *reader)
{
    while (take_byte(reader) & 0x80)
        ;
}

/* In how many bytes a number is written; 0: another way. */
static size_t size_of(uint8_t encoding)
{
    switch (encoding & FORMAT) {
    case FORMAT_UDATA4:
    case FORMAT_SDATA4:
        return 4;
    case FORMAT_ADDRESS:
    case FORMAT_UDATA8:
    case FORMAT_SDATA8:
        return 8;
    default:
        return 0;
    }
}

/* How a CIE has its FDEs write addresses. */
static bool read_encoding(const struct elf_file *file, uint64_t cie, uint8_t *encoding)
{
    struct reader reader = read_at(file, cie);
    char letters[8];
    size_t count = 0;
    take_word(&reader); /* its length */
    uint32_t id = take_word(&reader);
    uint8_t version = take_byte(&reader);
    do
        letters[count] = (char)take_byte(&reader);
    while (letters[count++] && count < sizeof(letters));
    if (reader.failed || id || letters[count - 1] || letters[0] != 'z')
        return false;
    skip_number(&reader); /* the alignment of code, and of data */
    skip_number(&reader);
    if (version == 1)
        take_byte(&reader); /* the return address's register */
    else
        skip_number(&reader);
    skip_number(&reader); /* the length of what the letters stand for */
    for (const char *letter = letters + 1; *letter && *letter != 'R'; letter++) {
        if (*letter == 'L')
            take_byte(&reader);
        else if (*letter == 'P')
            for (size_t left = size_of(take_byte(&reader)); left; left--)
                take_byte(&reader);
    }
    *encoding = take_byte(&reader);
    return !reader.failed && strchr(letters, 'R');
}

/* How many bytes of code an FDE is of; 0: it does not say so in a way that is known. */
static uint64_t read_range(const struct elf_file *file, uint64_t fde)
{
    struct reader reader = read_at(file, fde);
    uint32_t length = take_word(&reader), back = take_word(&reader);
    uint8_t encoding;
    uint64_t range = 0;
    if (reader.failed || length == UINT32_MAX ||
        !read_encoding(file, fde + sizeof(length) - back, &encoding) || !size_of(encoding))
        return 0;
    take(&reader, &range, size_of(encoding)); /* the beginning */
    range = 0;
    take(&reader, &range, size_of(encoding));
    return reader.failed ? 0 : range;
}

struct table {
    uint64_t base; /* the section's address */
    struct reader entries;
    uint32_t count;
};

static bool find_section(const struct elf_file *file, uint64_t *address)
{
    size_t count = 0;
    elf_getphdrnum(file->elf, &count);
    for (size_t i = 0; i < count && i < INT_MAX; i++) {
        GElf_Phdr segment;
        if (!gelf_getphdr(file->elf, (int)i, &segment) || segment.p_type != PT_GNU_EH_FRAME)
            continue;
        *address = segment.p_vaddr;
        return true;
    }
    return false;
}

static bool open_table(const struct elf_file *file, struct table *out)
{
    if (!find_section(file, &out->base))
        return false;
    struct reader reader = read_at(file, out->base);
    uint8_t version = take_byte(&reader), place = take_byte(&reader), count = take_byte(&reader),
            form = take_byte(&reader);
    take_word(&reader); /* where .eh_frame is */
    out->count = take_word(&reader);
    out->entries = reader;
    return !reader.failed && version == 1 && place == FROM_PLACE && count == FORMAT_UDATA4 &&
           form == FROM_SECTION && out->count <= (size_t)(reader.end - reader.at) / 8;
}

/* Where the function of that number begins, and its FDE. */
static void read_entry(const struct table *table, uint32_t number, uint64_t *start, uint64_t *fde)
{
    int32_t pair[2];
    memcpy(pair, table->entries.at + (size_t)number * sizeof(pair), sizeof(pair));
    *start = table->base + (uint64_t)(int64_t)pair[0];
    *fde = table->base + (uint64_t)(int64_t)pair[1];
}

bool frame_table_find(const struct elf_file *file, uint64_t address, uint64_t *start)
{
    struct table table;
    if (!open_table(file, &table))
        return false;
    uint64_t found, fde;
    uint32_t low = 0, high = table.count; /* the first that begins behind it is in between */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        read_entry(&table, middle, &found, &fde);
        if (found <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return false;
    read_entry(&table, low - 1, &found, &fde);
    if (address - found >= read_range(file, fde))
        return false;
    *start = found;
    return true;
}
