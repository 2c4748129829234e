/*
 * Ownership of descriptors and memory by scope.  A variable declared with
 * _cleanup_close_ or _cleanup_free_ owns what it holds; fd_steal() and
 * steal_pointer() hand it over.  All of these keep errno.
 */
#ifndef FREEZEPOINT_FD_H
#define FREEZEPOINT_FD_H

#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

/* Closes unless negative; always leaves -1.  close() is never retried: Linux
 * frees the number even on EINTR (fs/open.c, filp_close). */
static inline void fd_close(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
        *fd = -1;
    }
}

static inline int fd_steal(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

static inline void cleanup_free(void *pointer)
{
    int saved = errno;
    free(*(void **)pointer);
    errno = saved;
}

static inline void cleanup_fclose(FILE **stream)
{
    if (*stream) {
        int saved = errno;
        fclose(*stream);
        errno = saved;
    }
}

static inline void cleanup_closedir(DIR **dir)
{
    if (*dir) {
        int saved = errno;
        closedir(*dir);
        errno = saved;
    }
}

#define _cleanup_(function) __attribute__((cleanup(function)))
#define _cleanup_close_     _cleanup_(fd_close)
#define _cleanup_free_      _cleanup_(cleanup_free)
#define _cleanup_fclose_    _cleanup_(cleanup_fclose)
#define _cleanup_closedir_  _cleanup_(cleanup_closedir)

#define steal_pointer(pointer)                                                                     \
    __extension__({                                                                                \
        __typeof__(*(pointer)) stolen_ = *(pointer);                                               \
        *(pointer) = NULL;                                                                         \
        stolen_;                                                                                   \
    })

/* Reads or writes all of `size` bytes, through EINTR and short counts.  Returns
 * the count moved (short only at end of file) or -errno. */
ssize_t fd_read_all(int fd, void *buffer, size_t size);
ssize_t fd_write_all(int fd, const void *buffer, size_t size);

/* Copies from where `from` stands to its end.  0 or -errno. */
int fd_copy(int from, int to);

/* Sets or clears FD_CLOEXEC.  Returns 0 or -errno. */
int fd_cloexec(int fd, int on);

/* One message of `size` bytes with up to one descriptor beside it over a unix
 * socket (SEQPACKET or STREAM).  `pass` < 0 sends none.  Return the bytes moved
 * (0: the peer has closed) or -errno; a received descriptor is CLOEXEC and the
 * caller's, *passed is -1 when there was none. */
ssize_t fd_send(int socket, const void *message, size_t size, int pass);
ssize_t fd_receive(int socket, void *message, size_t size, int *passed);

/* Waits for `events` (poll.h) on fd, at most timeout_ms (-1: for ever is refused
 * with -EINVAL).  Returns revents, 0 on timeout, or -errno. */
int fd_wait(int fd, short events, int timeout_ms);

#endif
