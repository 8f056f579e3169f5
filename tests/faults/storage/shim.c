/* Stands between a process and libc's file calls: records them, kills the process at a chosen one, makes some fail.

Loaded by LD_PRELOAD; SQLite's calls pass here as Python's do. Only files below the watched folder are touched; a
process that never called comboio_watch() runs as if this were not there. One lock makes the recording a total order.

A record: u32 op, u32 length, u64 inode, i64 offset, then `length` bytes. Syncs are recorded, not carried out: what
would have survived a power cut is computed from the recording. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC, SYNC_FOLDER, UNLINK, RENAME, ALLOCATE, SAID, MKDIR, READ };
enum { BEFORE = 1, AFTER, TORN };

typedef struct {
  int on, error, brief;
  unsigned ops;
  long first, last, seen;
  char part[256];
} fault;

#define FAULTS 32
static fault faults[FAULTS];
static char watched[PATH_MAX];
static size_t watched_len;
static int record_fd = -1;
static long counted, kill_at;
static int kill_how;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void comboio_watch(const char *folder, const char *recording) {
  pthread_mutex_lock(&lock);
  if (record_fd >= 0) syscall(SYS_close, record_fd);
  record_fd = -1;
  watched_len = 0;
  counted = kill_at = 0;
  memset(faults, 0, sizeof faults);
  if (folder) {
    snprintf(watched, sizeof watched, "%s/", folder);
    watched_len = strlen(watched);
  }
  if (recording)
    record_fd = (int)syscall(SYS_openat, AT_FDCWD, recording, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  pthread_mutex_unlock(&lock);
}

/* Die at the n-th counted call from now: before it, after it, or with half of it done. */
void comboio_kill(long n, int how) {
  pthread_mutex_lock(&lock);
  counted = 0;
  kill_at = n;
  kill_how = how;
  pthread_mutex_unlock(&lock);
}

long comboio_counted(void) { return counted; }

/* Let calls of the kinds in `ops` on paths containing `part` fail, from the first-th to the last-th of them. */
void comboio_fail(int slot, const char *part, unsigned ops, long first, long last, int error, int brief) {
  pthread_mutex_lock(&lock);
  fault *f = &faults[slot];
  snprintf(f->part, sizeof f->part, "%s", part);
  f->ops = ops, f->first = first, f->last = last, f->error = error, f->brief = brief, f->seen = 0;
  f->on = error != 0;
  pthread_mutex_unlock(&lock);
}

long comboio_failed(int slot) { return faults[slot].seen >= faults[slot].first ? faults[slot].seen : 0; }

static int below(const char *path) { return watched_len && strncmp(path, watched, watched_len) == 0; }

static int path_of(int fd, char *path) {
  char link[64];
  if (!watched_len) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 2);
  if (n <= 0) return 0;
  path[n] = 0;
  if (below(path)) return 1;
  path[n] = '/', path[n + 1] = 0; /* the watched folder itself */
  return strcmp(path, watched) == 0;
}

static int is_said(const char *path) {
  size_t n = strlen(path);
  return n >= 5 && strcmp(path + n - 5, ".said") == 0;
}

static uint64_t inode(int fd) {
  struct stat st;
  return fstat(fd, &st) ? 0 : (uint64_t)st.st_ino;
}

static void record(int op, uint64_t ino, int64_t offset, const void *data, size_t length) {
  struct { uint32_t op, length; uint64_t ino; int64_t offset; } head = {(uint32_t)op, (uint32_t)length, ino, offset};
  if (record_fd < 0) return;
  syscall(SYS_write, record_fd, &head, sizeof head);
  for (size_t at = 0; at < length;) {
    long n = syscall(SYS_write, record_fd, (const char *)data + at, length - at);
    if (n <= 0) syscall(SYS_exit_group, 99);
    at += (size_t)n;
  }
}

static void die(void) { syscall(SYS_exit_group, 137); }

/* The errno this call fails with, or 0; *brief is set if it shall only be done by half. */
static int failing(int op, const char *path, int *brief) {
  for (fault *f = faults; f < faults + FAULTS; f++) {
    if (!f->on || !(f->ops & (1u << op)) || !strstr(path, f->part)) continue;
    f->seen++;
    if (f->seen < f->first || f->seen > f->last) continue;
    if (f->brief && (f->seen - f->first) % 2 == 0) { *brief = 1; continue; }
    return f->error;
  }
  return 0;
}

/* Called with the lock held around every changing call. */
static int turn(const char *path) {
  if (is_said(path)) return 0;
  counted++;
  if (kill_at != counted) return 0;
  if (kill_how == BEFORE) die();
  return kill_how;
}

static ssize_t put(int fd, const void *data, size_t length, int64_t offset, int at) {
  char path[PATH_MAX];
  if (!path_of(fd, path))
    return at ? syscall(SYS_pwrite64, fd, data, length, offset) : syscall(SYS_write, fd, data, length);
  pthread_mutex_lock(&lock);
  int brief = 0, how = turn(path), error = is_said(path) ? 0 : failing(WRITE, path, &brief);
  ssize_t n = -1;
  if (error) {
    errno = error;
  } else {
    if (!at) offset = lseek(fd, 0, (fcntl(fd, F_GETFL) & O_APPEND) ? SEEK_END : SEEK_CUR);
    size_t wanted = (brief || how == TORN) && length > 1 ? length / 2 : length;
    n = at ? syscall(SYS_pwrite64, fd, data, wanted, offset) : syscall(SYS_write, fd, data, wanted);
    if (n > 0) record(is_said(path) ? SAID : WRITE, inode(fd), offset, data, (size_t)n);
  }
  if (how) die();
  int kept = errno;
  pthread_mutex_unlock(&lock);
  errno = kept;
  return n;
}

ssize_t write(int fd, const void *data, size_t n) { return put(fd, data, n, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t offset) { return put(fd, data, n, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t offset) { return put(fd, data, n, offset, 1); }

static ssize_t get(int fd, void *data, size_t n, int64_t offset, int at) {
  char path[PATH_MAX];
  if (watched_len && path_of(fd, path)) {
    int brief = 0;
    pthread_mutex_lock(&lock);
    int error = failing(READ, path, &brief);
    pthread_mutex_unlock(&lock);
    if (error) return errno = error, -1;
  }
  return at ? syscall(SYS_pread64, fd, data, n, offset) : syscall(SYS_read, fd, data, n);
}

ssize_t read(int fd, void *data, size_t n) { return get(fd, data, n, 0, 0); }
ssize_t pread(int fd, void *data, size_t n, off_t offset) { return get(fd, data, n, offset, 1); }
ssize_t pread64(int fd, void *data, size_t n, off64_t offset) { return get(fd, data, n, offset, 1); }

/* A call that changes a file or a name: `todo` does it, `noted` is what the recording says of it. */
#define CHANGE(op, path, todo, noted)                                   \
  do {                                                                  \
    pthread_mutex_lock(&lock);                                          \
    int brief_ = 0, how_ = turn(path), error_ = failing(op, path, &brief_); \
    long done_ = -1;                                                    \
    if (error_) errno = error_;                                         \
    else if ((done_ = (todo)) >= 0) { noted; }                          \
    if (how_) die();                                                    \
    int kept_ = errno;                                                  \
    pthread_mutex_unlock(&lock);                                        \
    errno = kept_;                                                      \
    return (int)done_;                                                  \
  } while (0)

static int resize(int fd, int64_t size) {
  char path[PATH_MAX];
  if (!path_of(fd, path)) return (int)syscall(SYS_ftruncate, fd, size);
  CHANGE(TRUNCATE, path, syscall(SYS_ftruncate, fd, size), record(TRUNCATE, inode(fd), size, 0, 0));
}
int ftruncate(int fd, off_t size) { return resize(fd, size); }
int ftruncate64(int fd, off64_t size) { return resize(fd, size); }

static int sync_(int fd) {
  char path[PATH_MAX];
  struct stat st;
  if (!path_of(fd, path)) return (int)syscall(SYS_fdatasync, fd);
  int folder = !fstat(fd, &st) && S_ISDIR(st.st_mode);
  CHANGE(SYNC, path, 0,
         record(folder ? SYNC_FOLDER : SYNC, st.st_ino, 0, folder ? path : "", folder ? strlen(path) : 0));
}
int fsync(int fd) { return sync_(fd); }
int fdatasync(int fd) { return sync_(fd); }

static int allocate(int fd, int64_t offset, int64_t length) {
  char path[PATH_MAX];
  if (!path_of(fd, path)) return syscall(SYS_fallocate, fd, 0, offset, length) ? errno : 0;
  pthread_mutex_lock(&lock);
  int brief = 0, how = turn(path), error = failing(ALLOCATE, path, &brief);
  if (!error && syscall(SYS_fallocate, fd, 0, offset, length)) error = errno;
  if (!error) record(ALLOCATE, inode(fd), offset + length, 0, 0);
  if (how) die();
  pthread_mutex_unlock(&lock);
  return error;
}
int posix_fallocate(int fd, off_t offset, off_t length) { return allocate(fd, offset, length); }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return allocate(fd, offset, length); }

static int open_(int at, const char *path, int flags, mode_t mode) {
  char whole[PATH_MAX];
  if (!watched_len || !(flags & O_CREAT) || path[0] != '/' || !below(path) || is_said(path) ||
      syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0) {
    int fd = (int)syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && (flags & O_TRUNC) && path_of(fd, whole) && !is_said(whole)) {
      pthread_mutex_lock(&lock);
      record(TRUNCATE, inode(fd), 0, 0, 0);
      pthread_mutex_unlock(&lock);
    }
    return fd;
  }
  CHANGE(CREATE, path, syscall(SYS_openat, at, path, flags, mode),
         record(CREATE, inode((int)done_), 0, path, strlen(path)));
}

#define MODE(flags) \
  mode_t mode = 0; \
  if (flags & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); }
int open(const char *path, int flags, ...) { MODE(flags) return open_(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_(at, path, flags, mode); }

int unlink(const char *path) {
  if (!below(path)) return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  CHANGE(UNLINK, path, syscall(SYS_unlinkat, AT_FDCWD, path, 0), record(UNLINK, 0, 0, path, strlen(path)));
}

int mkdir(const char *path, mode_t mode) {
  if (!below(path)) return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
  CHANGE(MKDIR, path, syscall(SYS_mkdirat, AT_FDCWD, path, mode), record(MKDIR, 0, 0, path, strlen(path)));
}

int rename(const char *from, const char *to) {
  char both[2 * PATH_MAX];
  if (!below(from)) return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
  int n = snprintf(both, sizeof both, "%s\n%s", from, to);
  CHANGE(RENAME, from, syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0), record(RENAME, 0, 0, both, (size_t)n));
}
