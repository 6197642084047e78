/* A file layer that fails on demand: preloaded into a process, it stands between the process and its files.
 *
 * THRUMCAST_FAULTFS_ROOT   only files under this directory are concerned
 * THRUMCAST_FAULTFS_ORDER  a file that says what to do, read at every call; missing or empty = nothing:
 *                              <call> <errno name> <share>     such as:  write ENOSPC 1.0
 *                              <call> sleep <seconds>          such as:  fsync sleep 0.5
 *                              <call> hold                     as long as this order stands
 *                          calls: write (also pwrite, ftruncate, creating), fsync (also fdatasync), rename
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int ours_path(const char *path) {
    const char *root = getenv("THRUMCAST_FAULTFS_ROOT");
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

static int ours(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return ours_path(path);
}

/* 0 = go on; else the errno with which the call fails. */
static int verdict(const char *call) {
    static int (*real_open)(const char *, int, ...);
    if (!real_open) real_open = dlsym(RTLD_NEXT, "open");
    const char *order = getenv("THRUMCAST_FAULTFS_ORDER");
    if (!order) return 0;
    int fd = real_open(order, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    char text[256];
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    char which[32], what[32];
    double number = 1.0;
    if (sscanf(text, "%31s %31s %lf", which, what, &number) < 2 || strcmp(which, call) != 0) return 0;
    if (strcmp(what, "sleep") == 0) {
        struct timespec t = {(time_t)number, (long)((number - (time_t)number) * 1e9)};
        nanosleep(&t, NULL);
        return 0;
    }
    if (strcmp(what, "hold") == 0) {
        struct timespec t = {0, 20000000};
        nanosleep(&t, NULL);
        return verdict(call);
    }
    if ((double)rand() / RAND_MAX >= number) return 0;
    if (strcmp(what, "ENOSPC") == 0) return ENOSPC;
    if (strcmp(what, "EIO") == 0) return EIO;
    if (strcmp(what, "EROFS") == 0) return EROFS;
    return EIO;
}

#define REAL(name, type) \
    static __typeof__(type) real; \
    if (!real) real = (__typeof__(type))dlsym(RTLD_NEXT, name)
#define FAIL(call, concerned) \
    if (concerned) { int e = verdict(call); if (e) { errno = e; return -1; } }

ssize_t write(int fd, const void *data, size_t n) {
    REAL("write", ssize_t(*)(int, const void *, size_t));
    FAIL("write", ours(fd))
    return real(fd, data, n);
}
ssize_t writev(int fd, const struct iovec *v, int n) {
    REAL("writev", ssize_t(*)(int, const struct iovec *, int));
    FAIL("write", ours(fd))
    return real(fd, v, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL("pwrite", ssize_t(*)(int, const void *, size_t, off_t));
    FAIL("write", ours(fd))
    return real(fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL("pwrite64", ssize_t(*)(int, const void *, size_t, off64_t));
    FAIL("write", ours(fd))
    return real(fd, data, n, at);
}
int fsync(int fd) {
    REAL("fsync", int (*)(int));
    FAIL("fsync", ours(fd))
    return real(fd);
}
int fdatasync(int fd) {
    REAL("fdatasync", int (*)(int));
    FAIL("fsync", ours(fd))
    return real(fd);
}
int rename(const char *from, const char *to) {
    REAL("rename", int (*)(const char *, const char *));
    FAIL("rename", ours_path(to))
    return real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL("renameat", int (*)(int, const char *, int, const char *));
    FAIL("rename", ours_path(to))
    return real(a, from, b, to);
}
