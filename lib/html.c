#include "lib/html.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct html_slot *first_slot(const char *page, size_t size,
                                          const struct html_slot *slots, size_t count,
                                          const char **where)
{
    const struct html_slot *first = NULL;
    for (size_t i = 0; i < count; i++) {
        const char *at = memmem(page, size, slots[i].word, strlen(slots[i].word));
        if (at && (!first || at < *where)) {
            first = &slots[i];
            *where = at;
        }
    }
    return first;
}

int html_fill(FILE *to, const char *page, size_t size, const struct html_slot *slots, size_t count)
{
    const char *end = page + size, *where = NULL;
    for (size_t filled = 0; filled < count; filled++) {
        const struct html_slot *slot = first_slot(page, (size_t)(end - page), slots, count, &where);
        if (!slot)
            return -EINVAL;
        fwrite(page, 1, (size_t)(where - page), to);
        fwrite(slot->text, 1, slot->size, to);
        page = where + strlen(slot->word);
    }
    fwrite(page, 1, (size_t)(end - page), to);
    return ferror(to) ? -EIO : 0;
}

/* What stands for the character at `text`, and the length of that; NULL: itself. */
static const char *escape_of(const char *text, size_t *length)
{
    *length = 1;
    if (*text == '<')
        return "\\u003c";
    if (*text == '>')
        return "\\u003e";
    if (*text == '&')
        return "\\u0026";
    if (strncmp(text, "\xe2\x80\xa8", 3) != 0 && strncmp(text, "\xe2\x80\xa9", 3) != 0)
        return NULL;
    *length = 3;
    return (unsigned char)text[2] == 0xa8 ? "\\u2028" : "\\u2029";
}

char *html_json(const char *json)
{
    char *text = NULL;
    size_t size = 0, length;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    for (; *json; json += length) {
        const char *escape = escape_of(json, &length);
        if (escape)
            fputs(escape, to);
        else
            fputc(*json, to);
    }
    if (fclose(to) == 0)
        return text;
    free(text);
    return NULL;
}
