/* Places of probes: symbols of this very program, near names, lengths of instructions. */
#include <errno.h>
#include <inttypes.h>
#include <link.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "trigger/debug_file.h"
#include "trigger/instruction.h"
#include "trigger/similar.h"
#include "trigger/target.h"

int target_test_function(int number);

__attribute__((noipa)) int target_test_function(int number)
{
    return number * 7 + 3;
}

/* As C++ and Rust have them: unit::Thing::step(int), without and with the const, and
 * unit::half. */
int overloaded(int number) __asm__("_ZN4unit5Thing4stepEi");
int overloaded_const(int number) __asm__("_ZNK4unit5Thing4stepEi");
int of_rust(int number) __asm__("_RNvC4unit4half");
int of_old_rust(int number) __asm__("_ZN4unit3old17h0123456789abcdefE");
int with_two_strings(int number) __asm__("_ZN4unit4joinERKNSt7__cxx1112basic_stringIcSt11char_"
                                         "traitsIcESaIcEEES7_");

__attribute__((noipa)) int overloaded(int number)
{
    return number + 11;
}

__attribute__((noipa)) int overloaded_const(int number)
{
    return number + 12;
}

__attribute__((noipa)) int of_rust(int number)
{
    return number + 13;
}

__attribute__((noipa)) int of_old_rust(int number)
{
    return number + 14;
}

__attribute__((noipa)) int with_two_strings(int number)
{
    return number + 15;
}

/* A tracepoint whose counter is in no file. */
static void has_tracepoint(void)
{
    __asm__ volatile("990: nop\n"
                     ".pushsection .note.stapsdt, \"\", @note\n"
                     ".balign 4\n"
                     ".4byte 992f - 991f, 994f - 993f, 3\n"
                     "991: .asciz \"stapsdt\"\n"
                     "992: .balign 4\n"
                     "993: .8byte 0x10, 0, 0\n"
                     ".asciz \"unit\"\n"
                     ".asciz \"nowhere\"\n"
                     ".asciz \"\"\n"
                     "994: .balign 4\n"
                     ".popsection\n");
}

static int note_address(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    *(uint64_t *)context = info->dlpi_addr;
    return 1; /* the first one is the program */
}

/* Symbols count from there. */
static uint64_t load_address(void)
{
    uint64_t address = 0;
    dl_iterate_phdr(note_address, &address);
    return address;
}

static int find_spec(const char *spec, struct target *out, struct err *err)
{
    struct point point;
    struct targets targets = {NULL};
    assert_int_equal(point_parse(spec, &point, err), 0);
    int error = target_find(&point, &targets, err);
    if (!error) {
        assert_true(targets.count > 0);
        *out = targets.list[0];
    }
    targets_release(&targets);
    point_release(&point);
    return error;
}

static int find(const char *symbol, struct target *out, struct err *err)
{
    char spec[256];
    snprintf(spec, sizeof(spec), "probe:/proc/self/exe:%s", symbol);
    return find_spec(spec, out, err);
}

static void refuses_spec(const char *spec, const char *what)
{
    struct target target;
    struct err err;
    assert_int_equal(find_spec(spec, &target, &err), -EINVAL);
    assert_int_equal(err.kind, ERR_USAGE);
    if (!strstr(err.text, what))
        fail_msg("'%s': '%s' is not in '%s'", spec, what, err.text);
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

static void is_code_of(const char *symbol, int (*function)(int))
{
    struct target target;
    struct err err;
    uint8_t code[8];
    if (find(symbol, &target, &err))
        fail_msg("%s", err.text);
    FILE *file = fopen("/proc/self/exe", "re");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)target.offset, SEEK_SET), 0);
    assert_int_equal(fread(code, 1, sizeof(code), file), sizeof(code));
    fclose(file);
    assert_memory_equal(code, (const void *)(uintptr_t)function, sizeof(code));
    assert_int_equal(target.byte, code[0]);
    assert_int_equal(target.semaphore, 0);
}

static void a_symbol_is_found_in_the_file(void **state)
{
    (void)state;
    is_code_of("target_test_function", target_test_function);
    is_code_of("_RNvC4unit4half", of_rust);
}

static void a_function_is_found_by_its_demangled_name(void **state)
{
    (void)state;
    is_code_of("unit::half", of_rust);
    is_code_of("unit::old", of_old_rust);
    is_code_of("unit::Thing::step(int)", overloaded);
    is_code_of("unit::Thing::step( int )const", overloaded_const);
    is_code_of("unit::join", with_two_strings);
    refuses("unit::Thing::step", "has 2 functions 'unit::Thing::step', at 0x");
    refuses("unit::Thing::step", " (unit::Thing::step(int) const)");
    refuses("unit::Thing::stp", "did you mean 'unit::Thing::step'?");
    refuses("unit::Thing::step(", "has no symbol");
    refuses("unit", "did you mean ");
}

static void tracepoints_that_are_nowhere_are_refused(void **state)
{
    (void)state;
    has_tracepoint();
    refuses_spec("usdt:/proc/self/exe:unit:nowhere", "has no code at 0x10");
    refuses_spec("usdt:/proc/self/exe:unit:nowhre", "did you mean 'unit:nowhere'?");
    refuses_spec("usdt:/proc/self/exe:none:none", "but unit:nowhere");
    refuses_spec("usdt:/bin/true:a:b", "has no static tracepoints");
    refuses_spec("usdt:/etc/passwd:a:b", "not an ELF file");
    refuses_spec("usdt:/dev/null:a:b", "not an ELF file");
}

/* A stripped copy: what an address is in, its unwinding table says. */
static void an_address_in_stripped_code_is_checked(void **state)
{
    (void)state;
    char path[] = "/tmp/freezepoint-unit-XXXXXX", command[128], spec[128];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(command, sizeof(command), "strip -o %s /proc/$PPID/exe", path);
    assert_int_equal(system(command), 0);
    struct target named, target;
    struct err err;
    assert_int_equal(find("target_test_function", &named, &err), 0);
    assert_false(named.unsure);
    uint64_t address = (uintptr_t)target_test_function - load_address();
    snprintf(spec, sizeof(spec), "probe:%s:0x%" PRIx64, path, address);
    assert_int_equal(find_spec(spec, &target, &err), 0);
    assert_false(target.unsure);
    assert_int_equal(target.byte, named.byte);
    const uint8_t *code = (const uint8_t *)(uintptr_t)target_test_function;
    size_t first = instruction_length(code, 16);
    assert_true(first > 0);
    snprintf(spec, sizeof(spec), "probe:%s:0x%" PRIx64 "+%zu", path, address, first);
    assert_int_equal(find_spec(spec, &target, &err), 0);
    assert_false(target.unsure);
    size_t at = 0;
    while (instruction_length(code + at, 16) < 2)
        at += instruction_length(code + at, 16);
    snprintf(spec, sizeof(spec), "probe:%s:0x%" PRIx64 "+%zu", path, address, at + 1);
    refuses_spec(spec, "no instruction begins there");
    unlink(path);
}

static void write_copy(const char *program, const char *to)
{
    char command[2 * PATH_MAX];
    snprintf(command, sizeof(command), program, to, to, to, to);
    assert_int_equal(system(command), 0);
}

/* A stripped copy has its symbols where the distribution's have theirs. */
static void separate_debug_files_are_found(void **state)
{
    (void)state;
    char folder[] = "/tmp/freezepoint-unit-XXXXXX", out[PATH_MAX], program[64], wanted[256];
    assert_non_null(mkdtemp(folder));
    write_copy("cd %s && cp /proc/$PPID/exe p && mkdir -p debug/.build-id debug%s && "
               "objcopy --only-keep-debug p debug%s/p.debug && "
               "objcopy --strip-all --remove-section .note.gnu.build-id "
               "--add-gnu-debuglink debug%s/p.debug p",
               folder);
    snprintf(program, sizeof(program), "%s/p", folder);
    snprintf(wanted, sizeof(wanted), "%s/debug%s/p.debug", folder, folder);
    char root[64];
    snprintf(root, sizeof(root), "%s/debug", folder);
    assert_true(debug_file_find_below(root, program, out));
    assert_string_equal(out, wanted);
    /* Another file's checksum. */
    write_copy("cd %s && echo >>debug%s/p.debug", folder);
    assert_false(debug_file_find_below(root, program, out));
    write_copy("cd %s && rm debug%s/p.debug && cp /proc/$PPID/exe p && "
               "id=$(readelf -n p | sed -n 's/.*Build ID: //p') && "
               "mkdir debug/.build-id/$(echo $id | cut -c1-2) && "
               "cp p debug/.build-id/$(echo $id | cut -c1-2)/$(echo $id | cut -c3-).debug",
               folder);
    assert_true(debug_file_find_below(root, program, out));
    assert_non_null(strstr(out, "/debug/.build-id/"));
    /* Another file's. */
    write_copy("cd %s && find debug/.build-id -name '*.debug' -exec cp /bin/true {} ';'", folder);
    assert_false(debug_file_find_below(root, program, out));
    write_copy("rm -r %s", folder);
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
        cmocka_unit_test(a_function_is_found_by_its_demangled_name),
        cmocka_unit_test(tracepoints_that_are_nowhere_are_refused),
        cmocka_unit_test(an_address_in_stripped_code_is_checked),
        cmocka_unit_test(separate_debug_files_are_found),
        cmocka_unit_test(what_is_not_there_is_refused_with_what_is),
        cmocka_unit_test(near_names_come_best_first),
        cmocka_unit_test(lengths_of_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
