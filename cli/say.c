#include "cli/say.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* One write(2) a line, so that lines of several jobs do not mix.  On a terminal
 * the carriage return is written out: the keeper may have it in raw mode. */
static void write_line(const char *head, const char *text)
{
    char line[4096];
    int saved = errno;
    int length = snprintf(line, sizeof(line) - 2, "%s%s", head, text);
    if (length >= (int)sizeof(line) - 2)
        length = (int)sizeof(line) - 3;
    if (isatty(STDERR_FILENO))
        line[length++] = '\r';
    line[length++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)length);
    (void)ignored;
    errno = saved;
}

void say(const char *format, ...)
{
    char text[4000];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    write_line("freezepoint: ", text);
}

void say_line(const char *line, void *context)
{
    (void)context;
    write_line("freezepoint: ", line);
}

void say_log(enum log_level level, const char *topic, const char *line)
{
    static const char *const names[] = {
        [LOG_WARNING] = "warning", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"};
    char head[128];
    snprintf(head, sizeof(head), "freezepoint: %s: %s: ", names[level], topic);
    write_line(head, line);
}
