/* The disk writers. Every writer owns whole granules of its disk, so each sector has one writer and its sequence numbers tell
 * what is newer. A writer has one operation in flight; several in flight means several writers.
 *
 * A granule of the mixed mode is one sector longer than 1 MiB: its borders, where two writers meet, wander over all alignments.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ledger.h"

enum { BLOCK_SECTORS = 8, GRANULE_ALIGNED = 2048, GRANULE_ODD = MAX_SECTORS, HOT_GRANULES = 4 };

struct range {
    uint64_t lba;
    uint32_t sectors;
};

struct writer {
    int index, disk, fd;
    uint64_t rank, peers;     /* among the writers of this disk */
    uint64_t granules;        /* that it owns */
    uint32_t granule_sectors;
    uint32_t seq;
    uint64_t random;
    uint64_t due_ns;
    uint32_t *previous; /* seq per 4 KiB of the disk, or NULL */
    uint8_t *buffer;
    struct range intent;
    enum kind intent_kind;
    int intents_refused; /* the disk does not do them */
};

static struct writer writers[MAX_WRITERS];
static uint32_t *previous_of_disk[MAX_DISKS]; /* writers meet in a 4 KiB only at odd borders; there it is a hint */

static uint64_t below(struct writer *writer, uint64_t limit)
{
    return random_next(&writer->random) % limit;
}

static void io_error(struct writer *writer, const char *what, struct range range)
{
    __atomic_fetch_add(&totals.io_errors, 1, __ATOMIC_RELAXED);
    printf("ledger: ERROR %s disk=%d lba=%llu sectors=%u: %m\n", what, writer->disk, (unsigned long long)range.lba, range.sectors);
    usleep(10000);
}

static void complete(struct writer *writer, enum kind kind, struct range range, uint64_t submitted_ns)
{
    report_completed((struct record){.seq = writer->seq, .lba = (uint32_t)range.lba, .sectors = (uint16_t)range.sectors,
                                     .kind = (uint8_t)kind, .writer = (uint8_t)writer->index},
                     submitted_ns);
}

static void fill_buffer(struct writer *writer, struct range range, uint64_t at_ns)
{
    struct sector_header header = {.vm = options.vm, .writer = (uint16_t)writer->index, .kind = KIND_WRITE, .boot = boot_nonce,
                                   .seq = writer->seq, .length = range.sectors * SECTOR, .guest_ns = at_ns,
                                   .disk = (uint64_t)writer->disk};
    for (uint32_t i = 0; i < range.sectors; i++) {
        header.lba = range.lba + i;
        header.index = i;
        uint32_t *previous = writer->previous ? &writer->previous[header.lba / BLOCK_SECTORS] : NULL;
        header.prev = previous && *previous != writer->seq ? *previous : header.prev;
        sector_make(writer->buffer + (size_t)i * SECTOR, header);
        if (previous)
            *previous = writer->seq;
    }
}

static void write_data(struct writer *writer, struct range range)
{
    uint64_t at_ns = now_ns();
    report_submitted(writer->index, ++writer->seq);
    fill_buffer(writer, range, at_ns);
    ssize_t length = (ssize_t)range.sectors * SECTOR;
    at_ns = now_ns();
    if (pwrite(writer->fd, writer->buffer, (size_t)length, (off_t)(range.lba * SECTOR)) == length)
        complete(writer, KIND_WRITE, range, at_ns);
    else
        io_error(writer, "write", range);
}

static void flush(struct writer *writer)
{
    uint64_t at_ns = now_ns();
    report_submitted(writer->index, ++writer->seq);
    if (fdatasync(writer->fd) == 0)
        complete(writer, KIND_FLUSH, (struct range){0, 0}, at_ns);
    else
        io_error(writer, "flush", (struct range){0, 0});
}

static void do_intent(struct writer *writer)
{
    uint64_t at_ns = now_ns(), bytes[2] = {writer->intent.lba * SECTOR, (uint64_t)writer->intent.sectors * SECTOR};
    int zero = writer->intent_kind == KIND_ZERO;
    report_submitted(writer->index, ++writer->seq);
    if (ioctl(writer->fd, zero ? BLKZEROOUT : BLKDISCARD, bytes) == 0) {
        complete(writer, writer->intent_kind, writer->intent, at_ns);
        return;
    }
    if (errno != EOPNOTSUPP)
        io_error(writer, zero ? "zero" : "discard", writer->intent);
    writer->intents_refused = 1;
}

static uint64_t granule_start(const struct writer *writer, uint64_t granule)
{
    return (granule * writer->peers + writer->rank) * writer->granule_sectors;
}

/* The hot spot goes up and down the span; all writers share it, as they share the clock. */
static uint64_t hot_granule(struct writer *writer)
{
    uint64_t period = options.sweep_seconds * 1000000000ull, phase = now_ns() % (2 * period);
    uint64_t along = phase < period ? phase : 2 * period - phase;
    uint64_t granule = (uint64_t)((double)along / (double)period * (double)writer->granules) + below(writer, HOT_GRANULES);
    return granule < writer->granules ? granule : writer->granules - 1;
}

static uint32_t mixed_length(struct writer *writer)
{
    uint64_t dice = below(writer, 100);
    if (dice < 50)
        return BLOCK_SECTORS;
    if (dice < 65)
        return 1 + (uint32_t)below(writer, BLOCK_SECTORS);
    if (dice < 90)
        return 1 + (uint32_t)below(writer, 128);
    return 128 + (uint32_t)below(writer, GRANULE_ALIGNED - 128 + 1);
}

static struct range mixed_range(struct writer *writer)
{
    uint64_t granule = below(writer, 3) == 0 ? hot_granule(writer) : below(writer, writer->granules);
    uint64_t start = granule_start(writer, granule);
    struct range range = {.sectors = mixed_length(writer)};
    range.lba = start + below(writer, writer->granule_sectors - range.sectors + 1);
    if (range.sectors == BLOCK_SECTORS) { /* most small writes of real guests are aligned */
        uint64_t aligned = range.lba / BLOCK_SECTORS * BLOCK_SECTORS;
        range.lba = aligned >= start ? aligned : range.lba;
    }
    return range;
}

static struct range random4k_range(struct writer *writer)
{
    uint64_t start = granule_start(writer, below(writer, writer->granules));
    return (struct range){start + below(writer, GRANULE_ALIGNED / BLOCK_SECTORS) * BLOCK_SECTORS, BLOCK_SECTORS};
}

static void mixed_step(struct writer *writer)
{
    if (!writer->intents_refused && report_intent_open(writer->index) && report_intent_ready(writer->index)) {
        do_intent(writer);
        return;
    }
    uint64_t dice = below(writer, 100);
    if (dice < 4 && !report_intent_open(writer->index) && report_intents_allowed()) {
        writer->intent = mixed_range(writer);
        writer->intent_kind = dice < 2 ? KIND_ZERO : KIND_DISCARD;
        report_intent(writer->index, writer->intent_kind, writer->intent.lba, writer->intent.sectors);
    }
    if (dice >= 96)
        flush(writer);
    else
        write_data(writer, mixed_range(writer));
}

static void hold_rate(struct writer *writer)
{
    if (!options.rate)
        return;
    uint64_t now = now_ns();
    writer->due_ns += 1000000000ull * (uint64_t)options.writers / options.rate;
    if (writer->due_ns < now)
        writer->due_ns = now;
    else
        sleep_until(writer->due_ns);
}

static void fill(struct writer *writer)
{
    uint64_t bytes = (uint64_t)options.fill_mib << 20, end = 0;
    while (end < writer->granules && granule_start(writer, end) * SECTOR < bytes)
        end++;
    if (!end)
        return;
    off_t last = (off_t)(granule_start(writer, end - 1) * SECTOR);
    if (pread(writer->fd, writer->buffer, SECTOR, last) == SECTOR && sector_valid(writer->buffer))
        return; /* an earlier boot has done it */
    for (uint64_t granule = 0; granule < end; granule++)
        write_data(writer, (struct range){granule_start(writer, granule), writer->granule_sectors});
    printf("ledger: writer %d has filled its share\n", writer->index);
}

static void *writer_run(void *argument)
{
    struct writer *writer = argument;
    fill(writer);
    writer->due_ns = now_ns();
    for (;;) {
        hold_rate(writer);
        if (options.mode == MODE_MIXED)
            mixed_step(writer);
        else
            write_data(writer, random4k_range(writer));
    }
    return NULL;
}

static uint64_t disk_sectors(int fd)
{
    uint64_t bytes = 0;
    if (ioctl(fd, BLKGETSIZE64, &bytes))
        printf("ledger: ERROR size of a disk: %m\n");
    return (options.span && options.span < bytes ? options.span : bytes) / SECTOR;
}

static int open_disks(int *fds)
{
    int count = 0;
    for (char path[] = "/dev/vda"; count < MAX_DISKS; path[7]++) {
        fds[count] = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
        if (fds[count] < 0)
            break;
        count++;
    }
    return count;
}

static int prepare(struct writer *writer, uint64_t sectors)
{
    writer->granule_sectors = options.mode == MODE_MIXED ? GRANULE_ODD : GRANULE_ALIGNED;
    uint64_t all = sectors / writer->granule_sectors;
    writer->granules = all > writer->rank ? (all - writer->rank - 1) / writer->peers + 1 : 0;
    if (!writer->granules) {
        printf("ledger: ERROR disk %d is too small for writer %d\n", writer->disk, writer->index);
        return 0;
    }
    writer->random = boot_nonce + (uint64_t)writer->index;
    uint32_t **previous = &previous_of_disk[writer->disk];
    if (!*previous && sectors < (16ull << 21))
        *previous = calloc(sectors / BLOCK_SECTORS + 1, sizeof **previous);
    writer->previous = *previous;
    writer->buffer = aligned_alloc(4096, (MAX_SECTORS * SECTOR + 4095) / 4096 * 4096);
    return writer->buffer != NULL;
}

void writers_start(void)
{
    int fds[MAX_DISKS], disks = open_disks(fds);
    if (!disks || options.mode == MODE_IDLE) {
        printf("ledger: no disk writers\n");
        return;
    }
    if (options.writers < disks)
        options.writers = disks;
    for (int i = 0; i < options.writers; i++) {
        writers[i] = (struct writer){.index = i, .disk = i % disks, .fd = fds[i % disks], .rank = (uint64_t)(i / disks)};
        writers[i].peers = (uint64_t)((options.writers - 1 - i % disks) / disks + 1);
        report_writer(i, writers[i].disk); /* all of them before the first record: a report's layout then stays */
    }
    for (int i = 0; i < options.writers; i++)
        if (prepare(&writers[i], disk_sectors(writers[i].fd)))
            start_thread(writer_run, &writers[i], 0);
}
