/*
 * The shim and its supervisor: without one, told to stop asking, losing it, and
 * finding a new one after a restore.  No CRIU here: a restore is what it looks like
 * to the process, a filter without a listener and a new generation.
 */
#include "tests/unit/supervised.h"

#include <sys/un.h>

static int role_stop_between(void)
{
    call_often((void *)1);
    raise(SIGSTOP);
    call_often((void *)2);
    return 0;
}

/* May not install a filter: no CAP_SYS_ADMIN, no no_new_privs. */
static int role_stop_as_nobody(void)
{
    if (geteuid() == 0 && setuid(65534))
        return 18;
    return role_stop_between();
}

static int role_stop_and_exec(void)
{
    raise(SIGSTOP);
    execl("/proc/self/exe", "self", "call_ten", NULL);
    return 19;
}

static int role_threads(void)
{
    return call_in_threads(4, 50);
}

static void test_disarmed(void **state)
{
    (void)state;
    build_one("gnu_dev_major", NULL, 1, 1);
    struct target target = start((char *[]){"/proc/self/exe", "call_ten", NULL});
    target.answer = FZ_ANSWER_DISARM;
    serve(&target, NULL, NULL);
    assert_exited(0);
    assert_one_hit(1);
}

static void test_unsupervised(void **state)
{
    (void)state;
    build_one("gnu_dev_major", NULL, 1, 1);
    pid_t child = fork();
    if (child == 0) {
        setenv("LD_PRELOAD", library_path, 1);
        setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1);
        execl("/proc/self/exe", "self", "call_ten", NULL);
        _exit(121);
    }
    assert_int_equal(waitpid(child, &seen.status, 0), child);
    assert_exited(0);
}

static int listening = -1; /* on socket_path */
static uint32_t accepted;  /* what re-arming is answered */

static void listen_for_rearming(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
    unlink(socket_path);
    listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listening, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listening, 8), 0);
}

static void accept_generation(struct target *target, uint64_t generation)
{
    assert_true(fd_wait(listening, POLLIN, 5000) > 0);
    _cleanup_close_ int connection = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    struct fz_rearm message;
    assert_int_equal(fd_receive(connection, &message, sizeof(message), &target->listener),
                     sizeof(message));
    assert_int_equal(message.magic, FZ_CONTROL_MAGIC);
    assert_int_equal(message.generation, generation);
    if (seen.count)
        assert_int_equal(message.control, seen.hits[0].control);
    assert_true(target->listener >= 0);
    struct fz_rearm_reply reply = {.magic = FZ_CONTROL_MAGIC, .accepted = accepted};
    assert_int_equal(fd_send(connection, &reply, sizeof(reply), -1), sizeof(reply));
    assert_true(fd_wait(connection, POLLIN, 5000) & POLLIN); /* its end */
}

static void accept_rearming(struct target *target)
{
    accept_generation(target, seen.count ? 1 : 0);
}

/* What a dump and a restore look like to the process: within a call ... */
static void restore_at(struct target *target, const struct notification *notification)
{
    kill(target->pid, SIGSTOP);
    write_generation(target, 1);
    filter_answer(target->listener, notification->id, FZ_ANSWER_GO_ON);
    int status;
    assert_int_equal(waitpid(target->pid, &status, WUNTRACED), target->pid);
    fd_close(&target->listener);
    kill(target->pid, SIGCONT);
    accept_rearming(target);
}

static bool restore_within_call(struct target *target, const struct notification *notification)
{
    if (target->seen->count > 1)
        return false;
    restore_at(target, notification);
    return true;
}

/* ... and between two. */
static void restore_between_calls(struct target *target)
{
    write_generation(target, 1);
    fd_close(&target->listener);
    kill(target->pid, SIGCONT);
    accept_rearming(target);
}

/* Once more while it arms itself. */
static void restore_while_rearming(struct target *target)
{
    write_generation(target, 1);
    fd_close(&target->listener);
    kill(target->pid, SIGCONT);
    assert_true(fd_wait(listening, POLLIN, 5000) > 0);
    write_generation(target, 2);
    int connection = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    assert_true(connection >= 0);
    close(connection);
    accept_generation(target, 2);
}

/* In the midst of other threads' hits. */
static bool restore_among_threads(struct target *target, const struct notification *notification)
{
    static bool done;
    done = done && target->seen->count > 1;
    if (done || target->seen->count < 20)
        return false;
    done = true;
    restore_at(target, notification);
    return true;
}

/* Only the program that it executes next has the shim find out. */
static void restore_before_exec(struct target *target)
{
    fd_close(&target->listener);
    kill(target->pid, SIGCONT);
    accept_rearming(target);
}

static void lose_supervisor(struct target *target)
{
    fd_close(&target->listener);
    kill(target->pid, SIGCONT);
}

static void restore_unprivileged(struct target *target)
{
    write_generation(target, 1);
    lose_supervisor(target);
}

static void run_restored(const char *role, on_point point, on_stop stop, unsigned hits)
{
    build_one("gnu_dev_major", NULL, 1, 1);
    listen_for_rearming();
    struct target target = start((char *[]){"/proc/self/exe", (char *)role, NULL});
    serve(&target, point, stop);
    fd_close(&listening);
    unlink(socket_path);
    assert_exited(0);
    assert_int_equal(seen.count, hits);
    uint8_t hit[HITS_MAX] = {0};
    for (unsigned i = 0; i < hits; i++)
        hit[seen.hits[i].number - 1]++;
    for (unsigned i = 0; i < hits; i++)
        assert_int_equal(hit[i], 1);
}

static void test_rearming(void **state)
{
    (void)state;
    accepted = 1;
    run_restored("call_ten", restore_within_call, NULL, 10);
    run_restored("stop_between", NULL, restore_between_calls, 3);
    run_restored("stop_between", NULL, restore_while_rearming, 3);
    run_restored("threads", restore_among_threads, NULL, 200);
    run_restored("stop_and_exec", NULL, restore_before_exec, 10);
    assert_int_equal(seen.hellos, 2);
    run_restored("stop_between", NULL, lose_supervisor, 1);
    run_restored("stop_as_nobody", NULL, restore_unprivileged, 1);
    accepted = 0;
    run_restored("stop_between", NULL, restore_between_calls, 1);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"call_ten", role_call_ten},
        {"stop_between", role_stop_between},
        {"stop_as_nobody", role_stop_as_nobody},
        {"stop_and_exec", role_stop_and_exec},
        {"threads", role_threads},
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disarmed),
        cmocka_unit_test(test_unsupervised),
        cmocka_unit_test(test_rearming),
    };
    return RUN_ROLE_OR_TESTS(argc, argv, roles, tests);
}
