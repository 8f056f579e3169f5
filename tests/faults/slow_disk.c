/* Makes fsync and fdatasync take SLOW_DISK_MS while the file SLOW_DISK_SWITCH exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void drag(void)
{
    const char *path = getenv("SLOW_DISK_SWITCH"), *ms = getenv("SLOW_DISK_MS");
    if (path && ms && access(path, F_OK) == 0)
        usleep((useconds_t)atoi(ms) * 1000);
}

int fsync(int descriptor)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    drag();
    return real(descriptor);
}

int fdatasync(int descriptor)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    drag();
    return real(descriptor);
}
