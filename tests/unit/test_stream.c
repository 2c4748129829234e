/* Frames between two ends: cut anywhere, damaged anywhere, late, or never. */
#include "lib/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/fd.h"
#include "lib/proc.h"

struct link {
    struct stream stream; /* what is tried */
    int far_in, far_out;  /* the other side's: what it hears, what it says */
};

static int setup(void **state)
{
    struct link *link = calloc(1, sizeof(*link));
    struct err err;
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
        return -1;
    link->far_in = to[0];
    link->far_out = from[1];
    *state = link;
    return stream_open(&link->stream, from[0], to[1], &err);
}

static int teardown(void **state)
{
    struct link *link = *state;
    fd_close(&link->stream.in);
    fd_close(&link->stream.out);
    stream_release(&link->stream);
    fd_close(&link->far_in);
    fd_close(&link->far_out);
    free(link);
    return 0;
}

/* A CANCEL with a text and a payload. */
static size_t make_frame(uint8_t **bytes, const char *text, const char *payload)
{
    StreamMessage message;
    struct err err;
    size_t size = 0;
    freezepoint__stream__message__init(&message);
    message.kind = FREEZEPOINT__STREAM__KIND__CANCEL;
    message.text = (char *)text;
    assert_int_equal(
        stream_frame(&message, payload, payload ? strlen(payload) : 0, bytes, &size, &err), 0);
    return size;
}

static void say(struct link *link, const void *bytes, size_t size)
{
    assert_int_equal(fd_write_all(link->far_out, bytes, size), (ssize_t)size);
}

static void expect_text(StreamMessage *message, const char *text)
{
    assert_non_null(message);
    assert_int_equal(message->kind, FREEZEPOINT__STREAM__KIND__CANCEL);
    assert_string_equal(message->text, text);
    freezepoint__stream__message__free_unpacked(message, NULL);
}

static void takes_a_frame_cut_at_every_byte(void **state)
{
    struct link *link = *state;
    struct err err;
    _cleanup_free_ uint8_t *bytes = NULL;
    size_t size = make_frame(&bytes, "a text", "a payload");
    for (size_t cut = 0; cut <= size; cut++) {
        StreamMessage *message = NULL;
        say(link, bytes, cut);
        assert_int_equal(stream_poll(&link->stream, 0, &message, &err), 0);
        if (cut < size)
            assert_null(message);
        say(link, bytes + cut, size - cut);
        if (!message)
            assert_int_equal(stream_poll(&link->stream, 0, &message, &err), 0);
        expect_text(message, "a text");
        assert_int_equal(link->stream.payload_size, strlen("a payload"));
        assert_memory_equal(link->stream.payload, "a payload", strlen("a payload"));
    }
}

static void takes_a_frame_byte_by_byte_and_several_at_once(void **state)
{
    struct link *link = *state;
    struct err err;
    StreamMessage *message = NULL;
    _cleanup_free_ uint8_t *one = NULL, *two = NULL;
    size_t size = make_frame(&one, "one", NULL), other = make_frame(&two, "", "2");
    for (size_t i = 0; i < size; i++) {
        assert_null(message);
        say(link, one + i, 1);
        assert_int_equal(stream_poll(&link->stream, 0, &message, &err), 0);
    }
    expect_text(message, "one");
    say(link, one, size);
    say(link, two, other);
    say(link, one, size);
    assert_int_equal(stream_receive(&link->stream, &message, &err), 0);
    expect_text(message, "one");
    assert_int_equal(stream_receive(&link->stream, &message, &err), 0);
    expect_text(message, "");
    assert_int_equal(stream_receive(&link->stream, &message, &err), 0);
    expect_text(message, "one");
}

static void both_ends_understand_each_other_at_full_size(void **state)
{
    struct link *link = *state;
    struct err err;
    _cleanup_free_ uint8_t *payload = malloc(STREAM_CHUNK_MAX);
    for (size_t i = 0; i < STREAM_CHUNK_MAX; i++)
        payload[i] = (uint8_t)(i * 7);
    pid_t child = fork();
    if (child == 0) {
        struct stream far;
        StreamMessage *got = NULL;
        bool same = stream_open(&far, link->far_in, link->far_out, &err) == 0 &&
                    stream_receive(&far, &got, &err) == 0 && far.payload_size == STREAM_CHUNK_MAX &&
                    !memcmp(far.payload, payload, STREAM_CHUNK_MAX) &&
                    stream_send(&far, got, far.payload, far.payload_size, &err) == 0;
        _exit(same ? 0 : 1);
    }
    StreamMessage message, *back = NULL;
    freezepoint__stream__message__init(&message);
    message.kind = FREEZEPOINT__STREAM__KIND__CHUNK;
    assert_int_equal(stream_send(&link->stream, &message, payload, STREAM_CHUNK_MAX, &err), 0);
    assert_int_equal(stream_receive(&link->stream, &back, &err), 0);
    assert_int_equal(back->kind, FREEZEPOINT__STREAM__KIND__CHUNK);
    assert_memory_equal(link->stream.payload, payload, STREAM_CHUNK_MAX);
    freezepoint__stream__message__free_unpacked(back, NULL);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(stream_send(&link->stream, &message, payload, STREAM_CHUNK_MAX + 1, &err),
                     -EMSGSIZE);
}

/* Every bit of it counts: by the magic, the lengths' bounds, or the sum. */
static void refuses_a_frame_damaged_at_any_byte(void **state)
{
    (void)state;
    struct err err;
    _cleanup_free_ uint8_t *bytes = NULL;
    size_t size = make_frame(&bytes, "a text", "a payload");
    for (size_t i = 0; i < size * 8; i++) {
        void *one = NULL;
        StreamMessage *message = NULL;
        assert_int_equal(setup(&one), 0);
        struct link *link = one;
        bytes[i / 8] ^= (uint8_t)(1U << i % 8);
        say(link, bytes, size);
        fd_close(&link->far_out);
        int error = stream_receive(&link->stream, &message, &err);
        /* Where it seems longer than it is, the end comes before the sum. */
        if (error != -EBADMSG && error != -EPIPE)
            fail_msg("bit %zu: %d", i, error);
        assert_null(message);
        bytes[i / 8] ^= (uint8_t)(1U << i % 8);
        teardown(&one);
    }
}

static void refuses_what_is_no_stream_with_a_hint(void **state)
{
    struct link *link = *state;
    struct err err;
    StreamMessage *message = NULL;
    static const char motd[] = "Welcome to this host, and mind the step!\n";
    say(link, motd, sizeof(motd));
    assert_int_equal(stream_receive(&link->stream, &message, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "print nothing else"));
    void *other = NULL;
    assert_int_equal(setup(&other), 0);
    link = other;
    say(link, "Hi!", 3);
    fd_close(&link->far_out);
    assert_int_equal(stream_receive(&link->stream, &message, &err), -EBADMSG);
    teardown(&other);
}

static void refuses_lengths_that_are_too_large_before_it_waits_for_them(void **state)
{
    (void)state;
    static const size_t places[] = {4, 8, 12};
    for (size_t i = 0; i < 3; i++) {
        void *one = NULL;
        struct err err;
        StreamMessage *message = NULL;
        _cleanup_free_ uint8_t *bytes = NULL;
        make_frame(&bytes, "", NULL);
        uint32_t length = STREAM_MESSAGE_MAX + 1;
        memcpy(bytes + places[i], &length, sizeof(length));
        assert_int_equal(setup(&one), 0);
        struct link *link = one;
        say(link, bytes, 24);
        assert_int_equal(stream_poll(&link->stream, 0, &message, &err), -EBADMSG);
        teardown(&one);
    }
}

static void notices_the_end_and_half_a_frame_before_it(void **state)
{
    (void)state;
    struct err err;
    _cleanup_free_ uint8_t *bytes = NULL;
    size_t size = make_frame(&bytes, "a text", "a payload");
    for (size_t cut = 0; cut < size; cut++) {
        void *one = NULL;
        StreamMessage *message = NULL;
        assert_int_equal(setup(&one), 0);
        struct link *link = one;
        say(link, bytes, cut);
        fd_close(&link->far_out);
        assert_int_equal(stream_receive(&link->stream, &message, &err), -EPIPE);
        assert_null(message);
        teardown(&one);
    }
}

static void notices_a_side_that_is_quiet_or_takes_nothing(void **state)
{
    struct link *link = *state;
    struct err err;
    StreamMessage message, *got = NULL;
    _cleanup_free_ uint8_t *bytes = NULL, *payload = calloc(1, STREAM_CHUNK_MAX);
    size_t size = make_frame(&bytes, "a text", NULL);
    link->stream.quiet_ms = 300;
    uint64_t begun = proc_monotonic_ns();
    say(link, bytes, size / 2);
    assert_int_equal(stream_receive(&link->stream, &got, &err), -ETIMEDOUT);
    freezepoint__stream__message__init(&message);
    message.kind = FREEZEPOINT__STREAM__KIND__CHUNK;
    int error = 0;
    for (int i = 0; i < 8 && !error; i++)
        error = stream_send(&link->stream, &message, payload, STREAM_CHUNK_MAX, &err);
    assert_int_equal(error, -ETIMEDOUT);
    uint64_t took_ms = (proc_monotonic_ns() - begun) / 1000000;
    assert_in_range(took_ms, 600, 20000);
    fd_close(&link->far_in);
    assert_int_equal(stream_send(&link->stream, &message, payload, 10, &err), -EPIPE);
}

static void alive_is_a_sign_of_life_alone(void **state)
{
    struct link *link = *state;
    struct err err;
    StreamMessage *got = NULL;
    struct stream far;
    assert_int_equal(stream_open(&far, link->far_in, link->far_out, &err), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(stream_say(&far, FREEZEPOINT__STREAM__KIND__ALIVE, NULL, &err), 0);
    assert_int_equal(stream_say(&far, FREEZEPOINT__STREAM__KIND__GO, NULL, &err), 0);
    assert_int_equal(stream_expect(&link->stream, FREEZEPOINT__STREAM__KIND__GO, &got, &err), 0);
    freezepoint__stream__message__free_unpacked(got, NULL);
    got = NULL;
    assert_int_equal(stream_say(&far, FREEZEPOINT__STREAM__KIND__FAILED, "the disk\nis full", &err),
                     0);
    assert_int_equal(stream_expect(&link->stream, FREEZEPOINT__STREAM__KIND__GO, &got, &err),
                     -ECANCELED);
    assert_string_equal(err.text, "the disk is full");
    assert_int_equal(stream_say(&far, FREEZEPOINT__STREAM__KIND__BYE, NULL, &err), 0);
    assert_int_equal(stream_expect(&link->stream, FREEZEPOINT__STREAM__KIND__GO, &got, &err),
                     -EPROTO);
    assert_null(got);
    stream_release(&far);
}

static void an_unknown_kind_and_unknown_fields_are_passed_on(void **state)
{
    struct link *link = *state;
    struct err err;
    StreamMessage *got = NULL;
    _cleanup_free_ uint8_t *bytes = NULL;
    StreamMessage message;
    size_t size = 0;
    freezepoint__stream__message__init(&message);
    message.kind = (Freezepoint__Stream__Kind)99;
    assert_int_equal(stream_frame(&message, NULL, 0, &bytes, &size, &err), 0);
    say(link, bytes, size);
    assert_int_equal(stream_poll(&link->stream, 0, &got, &err), 0);
    assert_int_equal(got->kind, 99);
    freezepoint__stream__message__free_unpacked(got, NULL);
}

/* Half a million empty parts, which take much more room than their bytes. */
static void a_message_that_unpacks_to_too_much_is_refused(void **state)
{
    struct link *link = *state;
    struct err err;
    StreamMessage message, *got = NULL;
    Freezepoint__Stream__Hello hello;
    Freezepoint__Stream__Need need;
    Freezepoint__Stream__NeededFile file, **files;
    freezepoint__stream__message__init(&message);
    freezepoint__stream__hello__init(&hello);
    freezepoint__stream__need__init(&need);
    freezepoint__stream__needed_file__init(&file);
    size_t count = 500000;
    files = calloc(count, sizeof(*files));
    for (size_t i = 0; i < count; i++)
        files[i] = &file;
    need.files = files;
    need.n_files = count;
    hello.need = &need;
    message.hello = &hello;
    message.kind = FREEZEPOINT__STREAM__KIND__HELLO;
    _cleanup_free_ uint8_t *bytes = NULL;
    size_t size = 0;
    assert_int_equal(stream_frame(&message, NULL, 0, &bytes, &size, &err), 0);
    free(files);
    pid_t child = fork();
    if (child == 0)
        _exit(fd_write_all(link->far_out, bytes, size) == (ssize_t)size ? 0 : 1);
    assert_int_equal(stream_receive(&link->stream, &got, &err), -EBADMSG);
    assert_null(got);
    waitpid(child, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(takes_a_frame_cut_at_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(takes_a_frame_byte_by_byte_and_several_at_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(both_ends_understand_each_other_at_full_size, setup,
                                        teardown),
        cmocka_unit_test(refuses_a_frame_damaged_at_any_byte),
        cmocka_unit_test_setup_teardown(refuses_what_is_no_stream_with_a_hint, setup, teardown),
        cmocka_unit_test(refuses_lengths_that_are_too_large_before_it_waits_for_them),
        cmocka_unit_test(notices_the_end_and_half_a_frame_before_it),
        cmocka_unit_test_setup_teardown(notices_a_side_that_is_quiet_or_takes_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(alive_is_a_sign_of_life_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unknown_kind_and_unknown_fields_are_passed_on, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_message_that_unpacks_to_too_much_is_refused, setup,
                                        teardown),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
