/* /init of the ledger guest: sets the machine up, starts the parts and prints one line a second. Never ends: the end of a guest
 * is its power. Deliberately no recovery: what fails is printed, and the host's tests read it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ledger.h"

struct options options;
struct totals totals;
uint64_t boot_nonce;

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void sleep_until(uint64_t at_ns)
{
    struct timespec at = {.tv_sec = (time_t)(at_ns / 1000000000ull), .tv_nsec = (long)(at_ns % 1000000000ull)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        ;
}

uint64_t random_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15ull;
    return mix64(*state);
}

void start_thread(void *(*run)(void *), void *argument, int realtime)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, argument)) {
        printf("ledger: ERROR cannot start a thread\n");
        return;
    }
    struct sched_param first = {.sched_priority = 10};
    if (realtime && pthread_setschedparam(thread, SCHED_FIFO, &first))
        printf("ledger: ERROR cannot make the heartbeat real time\n");
}

static void read_options(void)
{
    char text[4096] = "";
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (length < 0)
        printf("ledger: ERROR cannot read the command line\n");
    close(fd);
    options_parse(text);
}

static void print_second(uint64_t second, uint64_t writes)
{
    printf("ledger: t=%llu writes=%llu gap_ms=%.1f corrupt=%u errors=%u boot=%016llx\n", (unsigned long long)second,
           (unsigned long long)writes, (double)report_take_gap() / 1e6, totals.corrupt_pages, totals.io_errors,
           (unsigned long long)boot_nonce);
}

int main(void)
{
    setup_system();
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_options();
    boot_nonce = setup_nonce();
    setup_network();
    agent_start();
    report_start();
    start_thread(heartbeat_run, NULL, 1);
    for (int i = 0; options.recorder.sin_port && !report_receipt_seen() && i < 100; i++)
        usleep(50000); /* a boot is on record before it writes */
    if (options.recorder.sin_port && !report_receipt_seen())
        printf("ledger: the recorder does not answer; going on without it\n");
    if (options.ram_mib)
        start_thread(ram_run, NULL, 0);
    writers_start();
    uint64_t start = now_ns(), before = 0;
    for (uint64_t second = 1;; second++) {
        sleep_until(start + second * 1000000000ull);
        uint64_t writes = totals.writes;
        print_second(second, writes - before);
        before = writes;
    }
}
