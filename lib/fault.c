#include "lib/fault.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* The action of `name` in the list, or NULL. */
static const char *find_action(const char *list, const char *name)
{
    size_t length = strlen(name);
    while (list) {
        if (!strncmp(list, name, length) && list[length] == '=')
            return list + length + 1;
        list = strchr(list, ',');
        list = list ? list + 1 : NULL;
    }
    return NULL;
}

static int is_action(const char *action, const char *wanted)
{
    size_t length = strcspn(action, ",");
    return length == strlen(wanted) && !strncmp(action, wanted, length);
}

void fault_point(const char *name)
{
    const char *action = find_action(getenv("FREEZEPOINT_FAULT"), name);
    if (!action)
        return;
    /* To this very thread: a signal to the process may be taken by another one, and
     * this one would go on for a while. */
    if (is_action(action, "kill"))
        raise(SIGKILL);
    else if (is_action(action, "stop"))
        raise(SIGSTOP);
}
