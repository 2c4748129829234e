/*
 * Writing a page of HTML that carries data from an untrusted program.  The page is a
 * template with words to be replaced; the data is one JSON text, in which nothing is
 * left that could end the element it stands in.  Pure.
 */
#ifndef FREEZEPOINT_HTML_H
#define FREEZEPOINT_HTML_H

#include <stddef.h>
#include <stdio.h>

/* A word of the template, as "@data@", and what stands in its place. */
struct html_slot {
    const char *word;
    const char *text;
    size_t size;
};

/* Each word once, where it is first; what is put in is not looked through.  0 or -EIO;
 * -EINVAL: a word is not there. */
int html_fill(FILE *to, const char *page, size_t size, const struct html_slot *slots, size_t count);

/*
 * JSON so that it can stand in a script element: '<', '>', '&' and the two line ends that
 * JSON allows and JavaScript did not (U+2028 and U+2029) are written as \uXXXX, which
 * they can be as they stand in JSON's strings alone.  NUL-terminated, the caller's; NULL:
 * no memory.
 */
char *html_json(const char *json);

#endif
