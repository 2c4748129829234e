/* Data of an untrusted program in a page. */
#include "lib/html.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <json-c/json.h>

static void nothing_ends_the_element(void **state)
{
    (void)state;
    const char *hostile =
        "</script><script>alert(1)</script><!--&\xe2\x80\xa8\xe2\x80\xa9\"'\\\x01\x7f";
    struct json_object *object = json_object_new_string(hostile);
    char *text = html_json(json_object_to_json_string(object));
    assert_non_null(text);
    assert_null(strpbrk(text, "<>&"));
    assert_null(strstr(text, "\xe2\x80\xa8"));
    assert_null(strstr(text, "\xe2\x80\xa9"));
    /* And it is still the same. */
    struct json_object *read = json_tokener_parse(text);
    assert_string_equal(json_object_get_string(read), hostile);
    json_object_put(read);
    json_object_put(object);
    free(text);
}

static void other_text_is_left_alone(void **state)
{
    (void)state;
    const char *json = "{\"a\":[1,2.5,\"\xc3\xa4 \xe2\x82\xac \xe2\x80\"]}";
    char *text = html_json(json);
    assert_string_equal(text, json);
    free(text);
}

static char *fill(const char *page, const struct html_slot *slots, size_t count, int *error)
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    assert_non_null(to);
    *error = html_fill(to, page, strlen(page), slots, count);
    fclose(to);
    return text;
}

static void each_word_is_replaced_once(void **state)
{
    (void)state;
    /* What is put in for one has the other's name in it. */
    const struct html_slot slots[] = {{"@b@", "two", 3}, {"@a@", "one @b@", 7}};
    int error;
    char *text = fill("<@a@|@b@|@a@>", slots, 2, &error);
    assert_int_equal(error, 0);
    assert_string_equal(text, "<one @b@|two|@a@>");
    free(text);
}

static void a_word_that_is_missing_is_told(void **state)
{
    (void)state;
    const struct html_slot slots[] = {{"@a@", "one", 3}, {"@c@", "two", 3}};
    int error;
    free(fill("<@a@>", slots, 2, &error));
    assert_int_equal(error, -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_ends_the_element),
        cmocka_unit_test(other_text_is_left_alone),
        cmocka_unit_test(each_word_is_replaced_once),
        cmocka_unit_test(a_word_that_is_missing_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
