/* How an image is shown, to people and as JSON. */
#ifndef FREEZEPOINT_IMAGE_TEXT_H
#define FREEZEPOINT_IMAGE_TEXT_H

#include <json-c/json.h>
#include <stdio.h>

#include "lib/image.h"

/* The summary of a generation, as an object of the caller's. */
struct json_object *image_summary_json(const struct store_entry *entry);

/* Everything that the manifest tells. */
struct json_object *image_json(const struct image *image, const struct image_size *size);
void image_print(FILE *to, const struct image *image, const struct image_size *size);

/* "3.4 MB"; "2026-01-31 12:00:59" in local time; "listen#1". */
void text_of_size(uint64_t bytes, char text[32]);
void text_of_time(uint64_t unix_ns, char text[32]);
void text_of_point(const Freezepoint__Point *point, char *text, size_t size);

/* Text and bytes from outside: JSON is UTF-8, and a byte that is none becomes U+FFFD. */
struct json_object *json_text(const void *bytes, size_t size);
struct json_object *json_bytes(const ProtobufCBinaryData *bytes);

/* Bytes from outside: what would move the cursor is not shown. */
void print_bytes(FILE *to, const ProtobufCBinaryData *bytes);

#endif
