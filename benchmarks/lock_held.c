/* How long Python's lock is held: a thread that needs no lock looks every microsecond whether a thread has it. For lock.py. */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

void *_PyThreadState_UncheckedGet(void); /* until Python 3.11: the thread that has the lock, of the whole process */

static atomic_int looking;
static pthread_t thread;
static long held, looks;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

static void *look(void *unused) {
  while (atomic_load(&looking)) {
    held += _PyThreadState_UncheckedGet() != 0;
    looks++;
    for (double next = now() + 1e-6; now() < next;) {}
  }
  return unused;
}

int start(void) {
  held = looks = 0;
  atomic_store(&looking, 1);
  return pthread_create(&thread, 0, look, 0);
}

/* The share of the time since start(). */
double stop(void) {
  atomic_store(&looking, 0);
  pthread_join(thread, 0);
  return looks ? (double)held / looks : 0;
}
