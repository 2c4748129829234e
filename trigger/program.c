#include "trigger/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "lib/spawn.h"

#define SCRIPT_DEPTH_MAX 4 /* as fs/exec.c, exec_binprm() */

static int check_executable(const char *path)
{
    struct stat about;
    if (stat(path, &about) < 0)
        return -errno;
    if (!S_ISREG(about.st_mode) || access(path, X_OK) < 0)
        return -EACCES;
    return 0;
}

static int search_path(const char *command, char *path, size_t size)
{
    const char *search = getenv("PATH");
    int found = -ENOENT;
    if (!search)
        search = "/usr/local/bin:/usr/bin:/bin";
    while (*search) {
        size_t length = strcspn(search, ":");
        snprintf(path, size, "%.*s%s%s", (int)length, search, length ? "/" : "./", command);
        int error = check_executable(path);
        if (!error)
            return 0;
        if (error == -EACCES)
            found = error;
        search += length + (search[length] == ':');
    }
    return found;
}

int program_find(const char *command, char *path, size_t size, struct err *err)
{
    char found[PATH_MAX];
    int error;
    if (strchr(command, '/')) {
        snprintf(found, sizeof(found), "%s", command);
        error = check_executable(found);
    } else {
        error = search_path(command, found, sizeof(found));
    }
    if (error)
        return err_set(err, -error, "cannot run '%s'", command);
    if (found[0] == '/') {
        snprintf(path, size, "%s", found);
        return 0;
    }
    char cwd[PATH_MAX];
    if (!getcwd(cwd, sizeof(cwd)))
        return err_set(err, errno, "getcwd");
    if ((size_t)snprintf(path, size, "%s/%s", cwd, found) >= size)
        return err_set(err, ENAMETOOLONG, "cannot run '%s'", command);
    return 0;
}

/* The words of a `#!` line: the interpreter, and the rest as one argument. */
static bool parse_script_line(char *head, char **interpreter, char **argument)
{
    if (strncmp(head, "#!", 2) != 0)
        return false;
    head[strcspn(head, "\n")] = '\0';
    char *word = head + 2 + strspn(head + 2, " \t");
    char *rest = word + strcspn(word, " \t");
    if (*rest)
        *rest++ = '\0';
    rest += strspn(rest, " \t");
    rest[strcspn(rest, "\r")] = '\0';
    *interpreter = word;
    *argument = rest;
    return *word != '\0';
}

static ssize_t read_head(const char *path, char *head, size_t size, struct err *err)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "cannot run '%s'", path);
    ssize_t n = fd_read_all(fd, head, size - 1);
    if (n < 0)
        return err_set(err, (int)-n, "read '%s'", path);
    head[n] = '\0';
    return n;
}

/* How many words of env(1)'s command line, from *words on, come before the command's:
 * options and assignments.  -1 where that cannot be told, or where the command would
 * be looked up elsewhere. */
static int count_env_words(char *const *words)
{
    int count = 0;
    for (; words[count]; count++) {
        const char *word = words[count];
        if (!strncmp(word, "PATH=", 5))
            return -1;
        if (word[0] != '-' && !strchr(word, '='))
            return count;
        if (word[0] != '-' || !strncmp(word, "--unset=", 8) || !strcmp(word, "--"))
            continue;
        const char *letter = word + 1 + strspn(word + 1, "i0v");
        if (*letter == 'u' || !strcmp(word, "--unset")) {
            count += letter[1] == '\0' || word[1] == '-';
            if (!words[count])
                return -1;
        } else if (*letter && strcmp(word, "--ignore-environment") != 0 &&
                   strcmp(word, "--debug") != 0 && !strstr(word, "-signal")) {
            return -1;
        }
    }
    return -1;
}

/* The word of a script's `env ...` that env will look up, in place; NULL where it
 * cannot be told. */
static char *find_env_command(char *argument)
{
    char *words[64] = {NULL}, *save = NULL;
    size_t count = 0;
    for (char *word = strtok_r(argument, " \t", &save); word && count + 1 < 64;
         word = strtok_r(NULL, " \t", &save)) {
        if (count == 0 && !strncmp(word, "-S", 2))
            word += 2;
        if (*word)
            words[count++] = word;
    }
    int before = count_env_words(words);
    return before < 0 ? NULL : words[before];
}

static bool is_env(const char *path)
{
    const char *slash = strrchr(path, '/');
    return !strcmp(slash ? slash + 1 : path, "env");
}

/* Follows `#!` lines from *path on, in place, to a file that is no script. */
static int follow_scripts(char *path, size_t size, struct err *err)
{
    for (int depth = 0; depth < SCRIPT_DEPTH_MAX; depth++) {
        char head[PATH_MAX] = "", *interpreter, *argument;
        ssize_t n = read_head(path, head, sizeof(head), err);
        if (n < 0)
            return (int)n;
        if (!parse_script_line(head, &interpreter, &argument))
            return 0;
        char *named = is_env(interpreter) ? find_env_command(argument) : NULL;
        int error = program_find(named ? named : interpreter, path, size, err);
        if (error)
            return err_wrap(err, "the script's interpreter");
    }
    return err_set(err, ELOOP, "cannot run '%s'", path);
}

/* `env A=1 prog`, as a command: what env will execute is what matters.  What cannot be
 * found is env's to report. */
static void skip_env(char *const argv[], char *path, size_t size)
{
    struct err ignored;
    int before = is_env(path) && argv[0] ? count_env_words(argv + 1) : -1;
    if (before >= 0)
        program_find(argv[1 + before], path, size, &ignored);
}

static int check_credentials(const char *path, struct err *err)
{
    struct stat about;
    if (stat(path, &about) < 0)
        return err_set(err, errno, "cannot run '%s'", path);
    bool changes_user = (about.st_mode & S_ISUID) && about.st_uid != getuid();
    bool changes_group =
        (about.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && about.st_gid != getgid();
    if (changes_user || changes_group)
        return err_usage(err,
                         "'%s' is set-%s, and for such programs the loader ignores preload "
                         "libraries: no point can be hooked in it; run it as its own user, or use "
                         "a copy without that bit",
                         path, changes_user ? "uid" : "gid");
    return 0;
}

/* PT_INTERP into `loader`; empty where there is none. */
static int read_loader(const char *path, const char *bytes, size_t size, char *loader,
                       size_t loader_size, struct err *err)
{
    const Elf64_Ehdr *header = (const void *)bytes;
    if (size < sizeof(*header) || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
        return err_text(err, ENOEXEC, "cannot run '%s': neither an ELF file nor a script", path);
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != EM_X86_64)
        return err_usage(err, "'%s' is not a 64-bit x86 program: no point can be hooked in it",
                         path);
    loader[0] = '\0';
    for (size_t i = 0; i < header->e_phnum; i++) {
        size_t at = header->e_phoff + i * header->e_phentsize;
        if (header->e_phoff > size || at + sizeof(Elf64_Phdr) > size)
            break;
        Elf64_Phdr segment;
        memcpy(&segment, bytes + at, sizeof(segment));
        if (segment.p_type == PT_INTERP && segment.p_offset < size)
            snprintf(loader, loader_size, "%.*s", (int)(size - segment.p_offset),
                     bytes + segment.p_offset);
    }
    return 0;
}

static int add_library(struct program *program, const char *path)
{
    char **larger = reallocarray(program->libraries, program->library_count + 1, sizeof(*larger));
    if (!larger)
        return -ENOMEM;
    program->libraries = larger;
    larger[program->library_count] = strdup(path);
    return larger[program->library_count++] ? 0 : -ENOMEM;
}

/* Lines as "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f..)". */
static int parse_list(char *text, struct program *program, struct err *err)
{
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *path = strstr(line, "=> ");
        path = path ? path + 3 : line + strspn(line, " \t");
        char *end = strstr(path, " (0x");
        if (*path != '/' || !end)
            continue;
        *end = '\0';
        if (add_library(program, path))
            return err_set(err, ENOMEM, "list of libraries");
    }
    return 0;
}

static int list_libraries(const char *loader, struct program *program, struct err *err)
{
    enum { LIST_SIZE = 256 * 1024 };
    _cleanup_free_ char *text = malloc(LIST_SIZE);
    if (!text)
        return err_set(err, ENOMEM, "list of libraries");
    char *const argv[] = {(char *)loader, "--list", program->executable, NULL};
    ssize_t n = spawn_capture(argv, 10 * 1000, text, LIST_SIZE, err);
    if (n < 0) {
        /* A loader of another make, or a missing library, of which the program
         * itself will tell. */
        log_info("program", "libraries unknown: %s", err->text);
        return 0;
    }
    return parse_list(text, program, err);
}

int program_examine(const char *path, char *const argv[], struct program *out, struct err *err)
{
    struct program program = {0};
    snprintf(program.path, sizeof(program.path), "%s", path);
    snprintf(program.executable, sizeof(program.executable), "%s", path);
    skip_env(argv, program.executable, sizeof(program.executable));
    int error = follow_scripts(program.executable, sizeof(program.executable), err);
    if (!error)
        error = check_credentials(program.executable, err);
    char head[PATH_MAX] = "", loader[PATH_MAX] = "";
    ssize_t n = error ? error : read_head(program.executable, head, sizeof(head), err);
    if (n < 0)
        return (int)n;
    error = read_loader(program.executable, head, (size_t)n, loader, sizeof(loader), err);
    if (error)
        return error;
    if (!loader[0])
        return err_usage(err,
                         "'%s' is statically linked: a preload library cannot reach it; a "
                         "function of it is given as --at 'probe:%s:FUNCTION'",
                         program.executable, program.executable);
    error = list_libraries(loader, &program, err);
    if (error) {
        program_release(&program);
        return error;
    }
    *out = program;
    return 0;
}

void program_release(struct program *program)
{
    for (size_t i = 0; i < program->library_count; i++)
        free(program->libraries[i]);
    free(program->libraries);
    program->libraries = NULL;
    program->library_count = 0;
}
