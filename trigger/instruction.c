#include "trigger/instruction.h"

#include <string.h>

#define LENGTH_MAX 15

struct decoding {
    const uint8_t *code;
    size_t size, at;
    bool operand_16, address_32, wide; /* prefixes 66 and 67, REX.W */
};

/* Opcodes of the one-byte map with a ModRM byte, beside 00-3f's. */
static bool has_modrm(uint8_t opcode)
{
    if (opcode < 0x40)
        return (opcode & 7) < 4;
    return opcode == 0x63 || opcode == 0x69 || opcode == 0x6b ||
           (opcode >= 0x80 && opcode <= 0x8f) || opcode == 0xc0 || opcode == 0xc1 ||
           opcode == 0xc6 || opcode == 0xc7 || (opcode >= 0xd0 && opcode <= 0xd3) ||
           (opcode >= 0xd8 && opcode <= 0xdf) || opcode == 0xf6 || opcode == 0xf7 || opcode >= 0xfe;
}

/* Bytes of the immediate operand; `reg` is ModRM's middle field. */
static size_t immediate(const struct decoding *self, uint8_t opcode, unsigned int reg)
{
    size_t word = self->operand_16 ? 2 : 4;
    if (opcode < 0x40)
        return (opcode & 7) == 4 ? 1 : (opcode & 7) == 5 ? word : 0;
    if ((opcode >= 0x70 && opcode <= 0x7f) || (opcode >= 0xb0 && opcode <= 0xb7) ||
        (opcode >= 0xe0 && opcode <= 0xe7))
        return 1;
    if (opcode >= 0xb8 && opcode <= 0xbf)
        return self->wide ? 8 : word;
    if (opcode >= 0xa0 && opcode <= 0xa3)
        return self->address_32 ? 4 : 8;
    switch (opcode) {
    case 0x6a:
    case 0x6b:
    case 0x80:
    case 0x83:
    case 0xa8:
    case 0xc0:
    case 0xc1:
    case 0xc6:
    case 0xcd:
    case 0xeb:
        return 1;
    case 0xc2:
    case 0xca:
        return 2;
    case 0xc8:
        return 3;
    case 0x68:
    case 0x69:
    case 0x81:
    case 0xa9:
    case 0xc7:
        return word;
    case 0xe8:
    case 0xe9:
        return 4;
    case 0xf6:
        return reg < 2 ? 1 : 0;
    case 0xf7:
        return reg < 2 ? word : 0;
    default:
        return 0;
    }
}

/* The map behind 0f. */
static bool has_modrm_0f(uint8_t opcode)
{
    static const uint8_t without[] = {0x05, 0x06, 0x07, 0x08, 0x09, 0x0b, 0x0e,
                                      0x77, 0xa0, 0xa1, 0xa2, 0xa8, 0xa9, 0xaa};
    return !memchr(without, opcode, sizeof(without)) && !(opcode >= 0x30 && opcode <= 0x37) &&
           !(opcode >= 0x80 && opcode <= 0x8f) && !(opcode >= 0xc8 && opcode <= 0xcf);
}

static size_t immediate_0f(uint8_t opcode)
{
    static const uint8_t bytes[] = {0x0f, 0x70, 0x71, 0x72, 0x73, 0xa4,
                                    0xac, 0xba, 0xc2, 0xc4, 0xc5, 0xc6};
    if (opcode >= 0x80 && opcode <= 0x8f)
        return 4;
    return memchr(bytes, opcode, sizeof(bytes)) ? 1 : 0;
}

static bool take(struct decoding *self, uint8_t *byte)
{
    if (self->at >= self->size || self->at >= LENGTH_MAX)
        return false;
    *byte = self->code[self->at++];
    return true;
}

static bool skip_modrm(struct decoding *self, unsigned int *reg)
{
    uint8_t modrm, sib = 0;
    if (!take(self, &modrm))
        return false;
    unsigned int mode = modrm >> 6, base = modrm & 7;
    *reg = modrm >> 3 & 7;
    if (mode == 3)
        return true;
    if (base == 4) {
        if (!take(self, &sib))
            return false;
        base = sib & 7;
    }
    self->at += mode == 1 ? 1 : mode == 2 || base == 5 ? 4 : 0;
    return true;
}

static void skip_prefixes(struct decoding *self)
{
    static const uint8_t prefixes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65,
                                       0x66, 0x67, 0xf0, 0xf2, 0xf3};
    while (self->at < self->size && memchr(prefixes, self->code[self->at], sizeof(prefixes))) {
        self->operand_16 |= self->code[self->at] == 0x66;
        self->address_32 |= self->code[self->at] == 0x67;
        self->at++;
    }
    if (self->at < self->size && (self->code[self->at] & 0xf0) == 0x40)
        self->wide = self->code[self->at++] & 8;
}

/* By the number that VEX gives a map: 1 is 0f, 2 is 0f 38, 3 is 0f 3a. */
static size_t end_in_map(struct decoding *self, unsigned int map)
{
    uint8_t opcode;
    unsigned int reg;
    if (!take(self, &opcode))
        return 0;
    if ((map != 1 || has_modrm_0f(opcode)) && !skip_modrm(self, &reg))
        return 0;
    self->at += map == 3 ? 1 : map == 1 ? immediate_0f(opcode) : 0;
    return self->at;
}

static size_t end_vector(struct decoding *self, uint8_t first)
{
    uint8_t payload, rest;
    if (!take(self, &payload))
        return 0;
    for (int i = first == 0x62 ? 2 : first == 0xc4 ? 1 : 0; i > 0; i--)
        if (!take(self, &rest))
            return 0;
    return end_in_map(self, first == 0xc5 ? 1 : payload & (first == 0x62 ? 7 : 0x1f));
}

static size_t end_two_byte(struct decoding *self)
{
    uint8_t next;
    if (!take(self, &next))
        return 0;
    if (next == 0x38 || next == 0x3a)
        return end_in_map(self, next == 0x38 ? 2 : 3);
    self->at--;
    return end_in_map(self, 1);
}

static size_t decode(struct decoding *self)
{
    uint8_t opcode;
    unsigned int reg = 0;
    skip_prefixes(self);
    if (!take(self, &opcode))
        return 0;
    if (opcode == 0x0f)
        return end_two_byte(self);
    if (opcode == 0xc4 || opcode == 0xc5 || opcode == 0x62)
        return end_vector(self, opcode);
    if (has_modrm(opcode) && !skip_modrm(self, &reg))
        return 0;
    self->at += immediate(self, opcode, reg);
    return self->at;
}

size_t instruction_length(const uint8_t *code, size_t size)
{
    struct decoding decoding = {.code = code, .size = size};
    size_t length = decode(&decoding);
    return length <= size && length <= LENGTH_MAX ? length : 0;
}

bool instruction_begins(const uint8_t *code, size_t size, size_t offset)
{
    size_t at = 0;
    while (at < offset && at < size) {
        size_t length = instruction_length(code + at, size - at);
        if (!length)
            return false;
        at += length;
    }
    return at == offset;
}
