/* Places of probes: symbols of this very program, near names, lengths of instructions. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "trigger/instruction.h"
#include "trigger/similar.h"
#include "trigger/target.h"

int target_test_function(int number);

__attribute__((noipa)) int target_test_function(int number)
{
    return number * 7 + 3;
}

static int find(const char *symbol, struct target *out, struct err *err)
{
    char spec[256];
    struct point point;
    snprintf(spec, sizeof(spec), "probe:/proc/self/exe:%s", symbol);
    assert_int_equal(point_parse(spec, &point, err), 0);
    int error = target_find(&point, out, err);
    point_release(&point);
    return error;
}

static void refuses(const char *symbol, const char *what)
{
    struct target target;
    struct err err;
    assert_int_equal(find(symbol, &target, &err), -EINVAL);
    assert_int_equal(err.kind, ERR_USAGE);
    if (!strstr(err.text, what))
        fail_msg("'%s': '%s' is not in '%s'", symbol, what, err.text);
}

static void a_symbol_is_found_in_the_file(void **state)
{
    (void)state;
    struct target target;
    struct err err;
    uint8_t code[8];
    assert_int_equal(find("target_test_function", &target, &err), 0);
    FILE *file = fopen("/proc/self/exe", "re");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)target.offset, SEEK_SET), 0);
    assert_int_equal(fread(code, 1, sizeof(code), file), sizeof(code));
    fclose(file);
    assert_memory_equal(code, (const void *)(uintptr_t)target_test_function, sizeof(code));
    assert_int_equal(target.byte, code[0]);
}

static void what_is_not_there_is_refused_with_what_is(void **state)
{
    (void)state;
    refuses("target_test_functoin", "did you mean 'target_test_function'?");
    refuses("no_such_thing_at_all", "has no symbol 'no_such_thing_at_all'");
    refuses("target_test_function+100000", "bytes long");
    refuses("0x1", "has no code at 0x1");
}

static void near_names_come_best_first(void **state)
{
    (void)state;
    static const char *const names[] = {"listne", "listen_on_socket", "listen",  "accept",
                                        "lister", "listen",           "relisten"};
    struct similar similar = {.wanted = "listen"};
    char text[SIMILAR_MAX * 140];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        similar_consider(&similar, names[i]);
    similar_text(&similar, text, sizeof(text));
    assert_string_equal(text, "'listen', 'lister', 'listne' or 'listen_on_socket'");
}

static void lengths_of_instructions(void **state)
{
    (void)state;
    static const struct {
        const char *code;
        size_t size, length;
    } cases[] = {
        {"\x55", 1, 1},
        {"\xf3\x0f\x1e\xfa", 4, 4},                           /* endbr64 */
        {"\x48\x89\xe5", 3, 3},                               /* mov %rsp,%rbp */
        {"\x48\xb8\x01\x02\x03\x04\x05\x06\x07\x08", 10, 10}, /* movabs */
        {"\x66\xb8\x01\x02", 4, 4},                           /* mov $0x201,%ax */
        {"\xe8\x01\x02\x03\x04", 5, 5},                       /* call */
        {"\x0f\x84\x01\x02\x03\x04", 6, 6},                   /* je */
        {"\x48\x8d\x05\x01\x02\x03\x04", 7, 7},               /* lea x(%rip),%rax */
        {"\x48\x8b\x44\x24\x08", 5, 5},                       /* mov 8(%rsp),%rax */
        {"\xf7\xc7\x01\x02\x03\x04", 6, 6},                   /* test $x,%edi */
        {"\xf7\xdf", 2, 2},                                   /* neg %edi */
        {"\xc5\xf8\x77", 3, 3},                               /* vzeroupper */
        {"\xc4\xe3\x7d\x39\xc1\x01", 6, 6},                   /* vextracti128 $1 */
        {"\x62\xf1\x7c\x48\x10\x07", 6, 6},                   /* vmovups (%rdi),%zmm0 */
        {"\xe8\x01\x02", 3, 0},                               /* cut off */
        {"\x66\x66\x66", 3, 0},
        {"", 0, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(instruction_length((const uint8_t *)cases[i].code, cases[i].size),
                         cases[i].length);
    const uint8_t *code = (const uint8_t *)"\x55\x48\x89\xe5\xc3";
    assert_true(instruction_begins(code, 5, 1) && instruction_begins(code, 5, 4));
    assert_false(instruction_begins(code, 5, 2) || instruction_begins(code, 5, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_symbol_is_found_in_the_file),
        cmocka_unit_test(what_is_not_there_is_refused_with_what_is),
        cmocka_unit_test(near_names_come_best_first),
        cmocka_unit_test(lengths_of_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
