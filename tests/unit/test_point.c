/* The point grammar, what programs are, and which hooks follow from both. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "trigger/hooks.h"
#include "trigger/point.h"
#include "trigger/program.h"

static void parses(const char *spec, const char *library, const char *function, uint64_t number)
{
    struct point point;
    struct err err;
    assert_int_equal(point_parse(spec, &point, &err), 0);
    assert_string_equal(point.spec, spec);
    if (library)
        assert_string_equal(point.library, library);
    else
        assert_null(point.library);
    assert_string_equal(point.function, function);
    assert_int_equal(point.number, number);
    point_release(&point);
}

static void refuses(const char *spec, const char *what)
{
    struct point point;
    struct err err;
    assert_int_equal(point_parse(spec, &point, &err), -EINVAL);
    assert_int_equal(err.kind, ERR_USAGE);
    if (!strstr(err.text, what))
        fail_msg("'%s': '%s' is not in '%s'", spec, what, err.text);
}

static void good_points_are_parsed(void **state)
{
    (void)state;
    parses("listen", NULL, "listen", 1);
    parses("listen#2", NULL, "listen", 2);
    parses("libc:write#1000000", "libc", "write", 1000000);
    parses("libssl.so.3:SSL_new", "libssl.so.3", "SSL_new", 1);
    parses("_ZNSt6thread4joinEv", NULL, "_ZNSt6thread4joinEv", 1);
    parses("_sqlite3:sqlite3_step", "_sqlite3", "sqlite3_step", 1);
    parses("main", NULL, "main", 1);
}

static void parses_probe(const char *spec, const char *path, const char *symbol, uint64_t offset,
                         uint64_t number)
{
    struct point point;
    struct err err;
    parses(spec, path, symbol, number);
    assert_int_equal(point_parse(spec, &point, &err), 0);
    assert_true(point.is_probe);
    assert_int_equal(point.offset, offset);
    point_release(&point);
}

static void probes_are_parsed(void **state)
{
    (void)state;
    parses_probe("probe:/bin/ls:main", "/bin/ls", "main", 0, 1);
    parses_probe("probe:./a:b#c:main#7", "./a:b#c", "main", 0, 7);
    parses_probe("probe:x:f+12", "x", "f", 12, 1);
    parses_probe("probe:x:f+0x1f#1000000", "x", "f", 0x1f, 1000000);
    parses_probe("probe:x:0x401000", "x", "0x401000", 0, 1);
    parses_probe("probe:x:f.isra.0#2", "x", "f.isra.0", 0, 2);
}

static void demangled_names_are_parsed(void **state)
{
    (void)state;
    parses_probe("probe:x:ns::f#3", "x", "ns::f", 0, 3);
    parses_probe("probe:./a:b::c:ns::T::f(int, char const*)+0x4#3", "./a:b::c",
                 "ns::T::f(int, char const*)", 4, 3);
    parses_probe("probe:x:main::{lambda(int)#1}::operator()(int) const", "x",
                 "main::{lambda(int)#1}::operator()(int) const", 0, 1);
    parses_probe("probe:x:m::{closure#0}#12", "x", "m::{closure#0}", 0, 12);
    parses_probe("probe:x:T::operator+", "x", "T::operator+", 0, 1);
    parses_probe("probe:x:T::operator+(T const&)+8", "x", "T::operator+(T const&)", 8, 1);
    parses_probe("probe:x:T::operator++#2", "x", "T::operator++", 0, 2);
    parses_probe("probe:x:T::operator+=+4", "x", "T::operator+=", 4, 1);
    parses_probe("probe:x:main.(*T).step#2", "x", "main.(*T).step", 0, 2);
    parses_probe("probe:x:<a::T as b::U>::f", "x", "<a::T as b::U>::f", 0, 1);
}

static void parses_tracepoint(const char *spec, const char *path, const char *provider,
                              const char *name, uint64_t number)
{
    struct point point;
    struct err err;
    parses_probe(spec, path, name, 0, number);
    assert_int_equal(point_parse(spec, &point, &err), 0);
    assert_string_equal(point.provider, provider);
    point_release(&point);
}

static void tracepoints_are_parsed(void **state)
{
    (void)state;
    parses_tracepoint("usdt:/lib/libc.so.6:libc:setjmp", "/lib/libc.so.6", "libc", "setjmp", 1);
    parses_tracepoint("usdt:./a:b#c:python:gc__start#7", "./a:b#c", "python", "gc__start", 7);
}

static void what_stands_before_a_number_is_found(void **state)
{
    (void)state;
    static const struct {
        const char *spec;
        size_t length;
    } cases[] = {{"listen", 6},
                 {"libc:listen#20", 11},
                 {"probe:a#b:f#7", 11},
                 {"probe:x:{closure#0}#7", 19},
                 {"probe:x:f+0x10#7", 14},
                 {"usdt:a#b:p:n#7", 12},
                 {"probe:x", 7},
                 {"", 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(point_length_unnumbered(cases[i].spec), cases[i].length);
}

static void bad_points_are_refused_with_their_column(void **state)
{
    (void)state;
    refuses("", "column 1: the function's name is missing");
    refuses("libc:", "column 6: the function's name is missing");
    refuses(":listen", "column 1: the library's name is missing");
    refuses("listen#", "column 8: a number is expected");
    refuses("listen#0", "column 8: calls are counted from 1");
    refuses("listen#-1", "column 8: a number is expected");
    refuses("listen#1x", "column 9: that is not part of a number");
    refuses("listen#99999999999999999999", "column 8: the number is too large");
    refuses("1listen", "column 1: that cannot be in a function's name");
    refuses("lis ten", "column 4: that cannot be in a function's name");
    refuses("/lib/libc.so.6:listen", "column 1: a library is given by its base name");
    refuses("listen:return", "':return' is not had");
    refuses("listen#1:return", "column 9: nothing may follow");
    refuses("probe:", "column 7: ':' and a symbol are expected");
    refuses("probe:/bin/ls", "column 14: ':' and a symbol are expected");
    refuses("probe::main", "column 7: the path is missing");
    refuses("probe:/bin/ls:", "column 15: the function's name is missing");
    refuses("probe:/bin/ls:main+", "column 20: a number is expected after '+'");
    refuses("probe:/bin/ls:main+1y", "column 21: that is not part of a number");
    refuses("probe:/bin/ls:main+99999999999999999999", "column 20: the offset is too large");
    refuses("probe:/bin/ls:main#0", "column 20: calls are counted from 1");
    refuses("probe:/bin/ls:0xyz", "column 16: that is not part of a number");
    refuses("probe:/bin/ls:a\tb", "column 16: that cannot be in a function's name");
    refuses("probe:/bin/ls:ns::f#x", "column 21: a number is expected after '#'");
    refuses("probe:a::b", "column 11: ':' and a symbol are expected");
    refuses("usdt:/bin/ls", "column 13: ':', a provider, ':' and a name are expected");
    refuses("usdt:/bin/ls:p", "column 15: ':', a provider, ':' and a name are expected");
    refuses("usdt::p:n", "column 6: the path is missing");
    refuses("usdt:/bin/ls::n", "column 14: the provider's name is missing");
    refuses("usdt:/bin/ls:p:", "column 16: the function's name is missing");
    refuses("usdt:/bin/ls:p:n#0", "column 18: calls are counted from 1");
    char lengthy[2 * FZ_NAME_MAX];
    memset(lengthy, 'a', sizeof(lengthy) - 1);
    lengthy[sizeof(lengthy) - 1] = '\0';
    refuses(lengthy, "the function's name is too long");
}

static void any_bytes_are_refused_or_parsed(void **state)
{
    (void)state;
    static const char alphabet[] = "a:#19.-/\n\x80 _";
    unsigned int seed = 7;
    for (int round = 0; round < 20000; round++) {
        char spec[12] = "";
        size_t length = (size_t)rand_r(&seed) % (sizeof(spec) - 1);
        for (size_t i = 0; i < length; i++)
            spec[i] = alphabet[(size_t)rand_r(&seed) % (sizeof(alphabet) - 1)];
        struct point point;
        struct err err;
        if (point_parse(spec, &point, &err) == 0) {
            assert_true(point.number > 0 && point.function[0]);
            point_release(&point);
        }
    }
}

static void aliases_begin_with_the_name_itself(void **state)
{
    (void)state;
    const char *names[POINT_ALIAS_MAX + 2];
    point_names("epoll_wait", names);
    assert_string_equal(names[0], "epoll_wait");
    assert_string_equal(names[1], "epoll_pwait");
    point_names("epoll_pwait", names);
    assert_string_equal(names[0], "epoll_pwait");
    assert_null(names[1]);
}

static const char *write_script(const char *directory, const char *name, const char *text,
                                mode_t mode)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(chmod(path, mode), 0);
    return path;
}

static int make_directory(void **state)
{
    char *path = strdup("/tmp/freezepoint-unit-XXXXXX");
    *state = path && mkdtemp(path) ? path : NULL;
    return *state ? 0 : -1;
}

static int remove_directory(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", (char *)*state);
    free(*state);
    return system(command);
}

static void examine(const char *path, char *const argv[], const char *executable)
{
    struct program program;
    struct err err;
    if (program_examine(path, argv, &program, &err))
        fail_msg("%s", err.text);
    assert_string_equal(program.executable, executable);
    assert_true(program.library_count > 0);
    program_release(&program);
}

static void scripts_are_followed_to_their_interpreter(void **state)
{
    char *argv[] = {"x", NULL};
    examine(write_script(*state, "a", "#!/bin/bash\n", 0755), argv, "/bin/bash");
    examine(write_script(*state, "b", "#! /usr/bin/env bash -u\n", 0755), argv, "/usr/bin/bash");
    examine(write_script(*state, "c", "#!/usr/bin/env -S LANG=C bash -u\n", 0755), argv,
            "/usr/bin/bash");
    char *with_env[] = {"env", "A=1", "bash", NULL};
    examine("/usr/bin/env", with_env, "/usr/bin/bash");
}

static void options_of_env_are_understood_or_left_to_env(void **state)
{
    char *argv[] = {"x", NULL};
    char *with_options[] = {"env",
                            "-i",
                            "-u",
                            "A",
                            "--unset",
                            "B",
                            "--unset=C",
                            "-vu",
                            "D",
                            "-uE",
                            "--default-signal=PIPE",
                            "--",
                            "F=1",
                            "bash",
                            "-c",
                            NULL};
    examine("/usr/bin/env", with_options, "/usr/bin/bash");
    examine(write_script(*state, "d", "#!/usr/bin/env -S -u A bash\n", 0755), argv,
            "/usr/bin/bash");
    char *unknown[][4] = {{"env", "-C", "/tmp", "bash"},          {"env", "PATH=/x", "bash", NULL},
                          {"env", "-S", "bash -c", NULL},         {"env", "-u", NULL, NULL},
                          {"env", "no-such-command", NULL, NULL}, {"env", NULL, NULL, NULL}};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        char *words[5] = {NULL};
        memcpy(words, unknown[i], sizeof(unknown[i]));
        examine("/usr/bin/env", words, "/usr/bin/env");
    }
}

static void what_no_preload_can_reach_is_refused(void **state)
{
    char *argv[] = {"x", NULL};
    struct program program;
    struct err err;
    const char *path = write_script(*state, "text", "no script\n", 0755);
    assert_int_equal(program_examine(path, argv, &program, &err), -ENOEXEC);
    path = write_script(*state, "loop", "", 0755);
    char line[300];
    snprintf(line, sizeof(line), "#!%s\n", path);
    path = write_script(*state, "loop", line, 0755);
    assert_int_equal(program_examine(path, argv, &program, &err), -ELOOP);
    char copied[256], command[1000];
    snprintf(copied, sizeof(copied), "%s/setuid", (char *)*state);
    snprintf(command, sizeof(command), "cp /bin/true %s && chown 65534 %s && chmod 4755 %s", copied,
             copied, copied);
    assert_int_equal(system(command), 0);
    assert_int_equal(program_examine(copied, argv, &program, &err), -EINVAL);
    assert_non_null(strstr(err.text, "set-uid"));
}

static void commands_are_found_as_execvp_does(void **state)
{
    char path[4096];
    struct err err;
    assert_int_equal(program_find("sh", path, sizeof(path), &err), 0);
    assert_int_equal(path[0], '/');
    assert_int_equal(program_find("no-such-command", path, sizeof(path), &err), -ENOENT);
    assert_int_equal(
        program_find(write_script(*state, "plain", "", 0644), path, sizeof(path), &err), -EACCES);
    assert_int_equal(program_find(*state, path, sizeof(path), &err), -EACCES);
}

struct warned {
    int count;
    char last[1024];
};

static void note_warning(const char *line, void *context)
{
    struct warned *warned = context;
    warned->count++;
    snprintf(warned->last, sizeof(warned->last), "%s", line);
}

/* Hooks and the points that their names are borrowed from. */
struct plan {
    struct point points[4];
    size_t count;
    struct hooks hooks;
    struct warned warned;
    struct err err;
};

static int make_plan(struct plan *plan, const char *const *specs, size_t count)
{
    char *argv[] = {"bash", NULL};
    struct program program;
    assert_int_equal(program_examine("/bin/bash", argv, &program, &plan->err), 0);
    for (; plan->count < count; plan->count++)
        assert_int_equal(point_parse(specs[plan->count], &plan->points[plan->count], &plan->err),
                         0);
    int error = hooks_plan(plan->points, count, 0, &program, note_warning, &plan->warned,
                           &plan->hooks, &plan->err);
    program_release(&program);
    return error;
}

static void release_plan(struct plan *plan)
{
    hooks_release(&plan->hooks);
    for (size_t i = 0; i < plan->count; i++)
        point_release(&plan->points[i]);
}

static bool has_slot(const struct hooks *hooks, const char *name, const char *version)
{
    for (size_t i = 0; i < hooks->slot_count; i++) {
        const char *has = hooks->slots[i].version;
        if (!strcmp(hooks->slots[i].name, name) && !has == !version &&
            (!version || !strcmp(has, version)))
            return true;
    }
    return false;
}

static void points_become_hooks(void **state)
{
    (void)state;
    static const char *const specs[] = {"epoll_wait#3", "epoll_wait#7", "realpath"};
    struct plan plan = {.count = 0};
    assert_int_equal(make_plan(&plan, specs, 3), 0);
    const struct hooks *hooks = &plan.hooks;
    assert_int_equal(plan.warned.count, 0);
    assert_int_equal(hooks->rule_count, 3);
    assert_int_equal(hooks->rules[0].counter, hooks->rules[1].counter);
    assert_int_equal(hooks->rules[1].first, 7);
    assert_int_not_equal(hooks->rules[2].counter, hooks->rules[0].counter);
    assert_true(has_slot(hooks, "epoll_wait", NULL));
    assert_true(has_slot(hooks, "epoll_pwait", NULL));
    assert_true(has_slot(hooks, "realpath", NULL));
    /* glibc has two addresses for it. */
    assert_true(has_slot(hooks, "realpath", "GLIBC_2.2.5"));
    release_plan(&plan);
}

static void unknown_names_are_warned_about(void **state)
{
    (void)state;
    static const char *const specs[] = {"lisen"};
    struct plan plan = {.count = 0};
    assert_int_equal(make_plan(&plan, specs, 1), 0);
    assert_int_equal(plan.warned.count, 1);
    assert_non_null(strstr(plan.warned.last, "did you mean 'listen'?"));
    release_plan(&plan);
}

static void is_refused(const char *const *specs, size_t count, const char *why)
{
    struct plan plan = {.count = 0};
    assert_int_equal(make_plan(&plan, specs, count), -EINVAL);
    if (!strstr(plan.err.text, why))
        fail_msg("'%s' is not in '%s'", why, plan.err.text);
    release_plan(&plan);
}

static void unreachable_names_are_refused(void **state)
{
    (void)state;
    static const char *const data[] = {"environ"};
    is_refused(data, 1, "is data");
    static const char *const own[] = {"rl_initialize"};
    is_refused(own, 1, "of '/bin/bash' itself");
    static const char *const both[] = {"libc:read", "read"};
    is_refused(both, 2, "is hooked already");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_points_are_parsed),
        cmocka_unit_test(probes_are_parsed),
        cmocka_unit_test(demangled_names_are_parsed),
        cmocka_unit_test(tracepoints_are_parsed),
        cmocka_unit_test(what_stands_before_a_number_is_found),
        cmocka_unit_test(bad_points_are_refused_with_their_column),
        cmocka_unit_test(any_bytes_are_refused_or_parsed),
        cmocka_unit_test(aliases_begin_with_the_name_itself),
        cmocka_unit_test_setup_teardown(scripts_are_followed_to_their_interpreter, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(options_of_env_are_understood_or_left_to_env,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(what_no_preload_can_reach_is_refused, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(commands_are_found_as_execvp_does, make_directory,
                                        remove_directory),
        cmocka_unit_test(points_become_hooks),
        cmocka_unit_test(unknown_names_are_warned_about),
        cmocka_unit_test(unreachable_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
