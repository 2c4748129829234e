/*
 * The preload library in real programs: what is counted, what fires, and that
 * nothing else is changed.
 */
#include "tests/unit/supervised.h"

#include <dlfcn.h>
#include <math.h>
#include <regex.h>
#include <sys/mman.h>
#include <sys/time.h>

#define THREADS 8

static int role_threads(void)
{
    return call_in_threads(THREADS, 1000000);
}

static int role_threads_few(void)
{
    return call_in_threads(THREADS, 100000);
}

static int role_fork(void)
{
    call_often((void *)1);
    pid_t child = fork();
    if (child == 0) {
        call_often((void *)2);
        _exit(0);
    }
    int status = -1;
    if (waitpid(child, &status, 0) != child || status)
        return 5;
    call_often((void *)1);
    return 0;
}

static volatile sig_atomic_t ticks;

static void tick(int signal)
{
    (void)signal;
    if (ticks++ % 8 == 0)
        call_often((void *)1);
}

/* Due calls under a timer that interrupts them, with due calls in its handler. */
static int role_signals(void)
{
    struct sigaction action = {.sa_handler = tick};
    struct itimerval interval = {{0, 1000}, {0, 1000}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &interval, NULL);
    call_often((void *)200);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    return ticks > 0 ? 0 : 6;
}

/* What a due hit must leave alone. */
static int role_transparent(void)
{
    char text[128];
    errno = 77;
    call_often((void *)1);
    if (errno != 77)
        return 7;
    snprintf(text, sizeof(text), "%d %d %d %d %d %.1f %.1f %s", 1, 2, 3, 4, 5, 6.5, 7.5, "eight");
    if (strcmp(text, "1 2 3 4 5 6.5 7.5 eight") != 0)
        return 8;
    ldiv_t quotient = ldiv(atol("17"), 5);
    if (quotient.quot != 3 || quotient.rem != 2)
        return 9;
    double (*volatile scale)(double, int) = ldexp;
    if (scale(1.5, 2) != 6 || strtod("2.5", NULL) != 2.5)
        return 10;
    jmp_buf place;
    int jumped = _setjmp(place);
    if (!jumped)
        longjmp(place, 4);
    return jumped == 4 ? 0 : 11;
}

int old_regexec(const regex_t *, const char *, size_t, regmatch_t *, int);
__asm__(".symver old_regexec, regexec@GLIBC_2.2.5");

/* The old version does not know REG_STARTEND. */
static int role_versions(void)
{
    regex_t expression;
    regmatch_t match = {.rm_so = 0, .rm_eo = 1};
    if (regcomp(&expression, "b", 0))
        return 12;
    if (regexec(&expression, "ab", 1, &match, REG_STARTEND) == 0)
        return 13;
    if (old_regexec(&expression, "ab", 1, &match, REG_STARTEND) != 0)
        return 14;
    regfree(&expression);
    return 0;
}

#define DLOPENED "libsqlite3.so.0"

/* A library that is loaded, asked by handle, unloaded and loaded elsewhere. */
static int role_dlsym(void)
{
    for (int i = 0; i < 2; i++) {
        void *library = dlopen(DLOPENED, RTLD_NOW | RTLD_LOCAL);
        int (*number)(void) =
            library ? (int (*)(void))dlsym(library, "sqlite3_libversion_number") : NULL;
        if (!number || number() < 3000000)
            return 15;
        Dl_info info;
        if (!dladdr((void *)number, &info) || !strstr(info.dli_fname, "preload"))
            return 16;
        void *start = dlsym(library, "sqlite3_libversion");
        dlclose(library);
        /* So that it cannot come back to where it was. */
        uintptr_t page = (uintptr_t)start & -(uintptr_t)4096;
        mmap((void *)page, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
             0);
    }
    void *next = dlsym(RTLD_NEXT, "gnu_dev_minor");
    return next && next == dlsym(RTLD_DEFAULT, "gnu_dev_minor") ? 0 : 17;
}

static void test_exactly_once(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        uint64_t due = 1 + (uint64_t)i * 123457;
        build_one("gnu_dev_major", NULL, due, 0);
        run_role("threads");
        assert_exited(0);
        assert_one_hit(due);
    }
}

static void test_every(void **state)
{
    (void)state;
    const struct preload_slot slot = {.name = "gnu_dev_major"};
    const struct fz_rule rules[] = {{.first = 7, .every = 1000}, {.first = 8}, {.first = 1007}};
    build(&slot, 1, rules, 3);
    run_role("threads_few");
    assert_exited(0);
    uint8_t hit[THREADS * 100000 / 1000] = {0};
    unsigned others = 0;
    for (unsigned i = 0; i < seen.count; i++) {
        uint64_t number = seen.hits[i].number;
        if (seen.hits[i].rule == 0 && number % 1000 == 7 && number < THREADS * 100000)
            hit[number / 1000]++;
        else if (number == rules[seen.hits[i].rule].first)
            others++;
    }
    for (size_t i = 0; i < sizeof(hit); i++)
        assert_int_equal(hit[i], 1);
    assert_int_equal(others, 2);
    assert_int_equal(seen.count, sizeof(hit) + 2);
}

static void test_transparent(void **state)
{
    (void)state;
    static const char *const names[] = {"gnu_dev_major", "snprintf", "__snprintf_chk",
                                        "ldiv",          "ldexp",    "strtod",
                                        "_setjmp",       "longjmp",  "__longjmp_chk"};
    struct preload_slot slots[9];
    struct fz_rule rules[9];
    for (uint32_t i = 0; i < 9; i++) {
        slots[i] = (struct preload_slot){.name = names[i], .counter = 8 - i};
        rules[i] = (struct fz_rule){.first = 1, .every = 1, .counter = 8 - i};
    }
    build(slots, 9, rules, 9);
    run_role("transparent");
    assert_exited(0);
    bool hit[9] = {false};
    for (unsigned i = 0; i < seen.count; i++)
        hit[seen.hits[i].rule] = true;
    assert_true(hit[0] && (hit[1] || hit[2]) && hit[3] && hit[4] && hit[5] && hit[6]);
    assert_true(hit[7] || hit[8]);
}

static void test_versions(void **state)
{
    (void)state;
    const struct preload_slot slots[] = {{.name = "regexec"},
                                         {.name = "regexec", .version = "GLIBC_2.2.5"}};
    const struct fz_rule rule = {.first = 1, .every = 1};
    build(slots, 2, &rule, 1);
    run_role("versions");
    assert_exited(0);
    assert_int_equal(seen.count, 2);
}

static void test_main(void **state)
{
    (void)state;
    build_one("main", NULL, 1, 0);
    run_role("call_ten");
    assert_exited(0);
    assert_one_hit(1);
    assert_int_equal(seen.hellos, 1);
}

static void test_library_pattern(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        unsigned hits;
    } cases[] = {{"libc", 1}, {"libc.so.6", 1}, {"libcrypt", 0}, {"lib", 0}, {"libc.so.60", 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        build_one("gnu_dev_major", cases[i].pattern, 2, 0);
        run_role("call_ten");
        assert_exited(0);
        assert_int_equal(seen.count, cases[i].hits);
    }
    assert_true(fz_library_matches("libc", "/lib/libc-2.31.so"));
    assert_false(fz_library_matches("libc", "/lib/libc-client.so"));
    assert_true(fz_library_matches("/lib/libc.so.6", "/lib/libc.so.6"));
    assert_false(fz_library_matches("/lib/libc", "/lib/libc.so.6"));
}

static void test_fork(void **state)
{
    (void)state;
    build_one("gnu_dev_major", NULL, 1, 1);
    run_role("fork");
    assert_exited(0);
    assert_int_equal(seen.count, 4);
    assert_int_equal(seen.hellos, 1);
    static const uint64_t expected[] = {1, 2, 3, 2};
    for (int i = 0; i < 4; i++)
        assert_int_equal(seen.hits[i].number, expected[i]);
    assert_int_equal(seen.hits[1].pid == seen.hits[0].pid, false);
}

static void test_signals(void **state)
{
    (void)state;
    build_one("gnu_dev_major", NULL, 1, 1);
    run_role("signals");
    assert_exited(0);
    assert_true(seen.count >= 200);
    static uint8_t hit[HITS_MAX];
    memset(hit, 0, sizeof(hit));
    for (unsigned i = 0; i < seen.count; i++)
        hit[seen.hits[i].number - 1]++;
    for (unsigned i = 0; i < seen.count; i++)
        assert_int_equal(hit[i], 1);
}

static void test_dlsym(void **state)
{
    (void)state;
    void *library = dlopen(DLOPENED, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        skip();
    dlclose(library);
    build_one("sqlite3_libversion_number", "libsqlite3", 1, 1);
    run_role("dlsym");
    assert_exited(0);
    assert_int_equal(seen.count, 2);
}

static void test_python(void **state)
{
    (void)state;
    needs("/usr/bin/python3");
    const struct preload_slot slots[] = {{.name = "listen"},
                                         {.name = "sqlite3_step", .counter = 1}};
    const struct fz_rule rules[] = {{.first = 2}, {.first = 3, .counter = 1}};
    build(slots, 2, rules, 2);
    run((char *[]){"/usr/bin/python3", "-c",
                   "import socket, sqlite3\n"
                   "for i in range(3): socket.socket().listen(1)\n"
                   "c = sqlite3.connect(':memory:')\n"
                   "for i in range(5): c.execute('select 1').fetchall()\n",
                   NULL});
    assert_exited(0);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.hits[0].number, 2);
    assert_int_equal(seen.hits[1].number, 3);
}

static void test_node(void **state)
{
    (void)state;
    needs("/usr/bin/node");
    /* Which of the two depends on its libuv. */
    const struct preload_slot slots[] = {{.name = "epoll_wait"}, {.name = "epoll_pwait"}};
    const struct fz_rule rule = {.first = 2};
    build(slots, 2, &rule, 1);
    run((char *[]){"/usr/bin/node", "-e", "let n=0;const f=()=>{if(++n<9)setTimeout(f,2)};f()",
                   NULL});
    assert_exited(0);
    assert_one_hit(2);
}

static void test_bad_requests(void **state)
{
    (void)state;
    static char long_name[FZ_NAME_MAX + 1];
    memset(long_name, 'x', FZ_NAME_MAX);
    static const struct preload_slot slots[][2] = {
        {{.name = ""}, {.name = "a"}},
        {{.name = "a"}, {.name = "a"}},
        {{.name = "a", .version = "V"}, {.name = "a", .version = "V"}},
        {{.name = long_name}, {.name = "a"}},
        {{.name = "main", .library = "libc"}, {.name = "a"}},
        {{.name = "main"}, {.name = "__libc_start_main"}},
        {{.name = "a", .counter = FZ_SLOT_MAX}, {.name = "b"}},
    };
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        struct preload_request request = {.slots = slots[i], .slot_count = 2, .socket_path = ""};
        struct preload out = PRELOAD_NONE;
        struct err err;
        assert_int_equal(preload_build(&request, &out, &err), -EINVAL);
        assert_null(out.bytes);
    }
}

static void test_hash(void **state)
{
    (void)state;
    const struct preload_slot slots[] = {{.name = "a"}};
    struct preload_request request = {.slots = slots, .slot_count = 1, .socket_path = "/a"};
    struct preload one, same, other;
    struct err err;
    assert_int_equal(preload_build(&request, &one, &err), 0);
    assert_int_equal(preload_build(&request, &same, &err), 0);
    request.socket_path = "/b";
    assert_int_equal(preload_build(&request, &other, &err), 0);
    assert_string_equal(one.hash, same.hash);
    assert_string_not_equal(one.hash, other.hash);
    const struct fz_control *control = (const void *)(one.bytes + one.control_offset);
    assert_int_equal(control->magic, FZ_CONTROL_MAGIC);
    assert_int_equal(control->size, sizeof(*control));
    preload_release(&one);
    preload_release(&same);
    preload_release(&other);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"threads", role_threads},   {"threads_few", role_threads_few},
        {"call_ten", role_call_ten}, {"fork", role_fork},
        {"signals", role_signals},   {"transparent", role_transparent},
        {"versions", role_versions}, {"dlsym", role_dlsym},
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exactly_once), cmocka_unit_test(test_every),
        cmocka_unit_test(test_transparent),  cmocka_unit_test(test_versions),
        cmocka_unit_test(test_main),         cmocka_unit_test(test_library_pattern),
        cmocka_unit_test(test_fork),         cmocka_unit_test(test_signals),
        cmocka_unit_test(test_dlsym),        cmocka_unit_test(test_python),
        cmocka_unit_test(test_node),         cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_hash),
    };
    return RUN_ROLE_OR_TESTS(argc, argv, roles, tests);
}
