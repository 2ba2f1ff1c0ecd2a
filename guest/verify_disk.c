/* Reads the disk and judges each sector by itself against what the log says of it. Holes are not read. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "verify.h"

enum { CHUNK = 4 << 20 };

enum content { CONTENT_ZERO, CONTENT_LEDGER, CONTENT_PREFILL, CONTENT_OTHER };

struct judge {
    const struct settings *settings;
    const struct ledger *ledger;
    struct verdict *verdict;
};

void add_lost(struct verdict *verdict, const struct expected *expected)
{
    verdict->lost_sectors++;
    struct operation operation = {expected->seq, expected->boot, expected->writer};
    if (verdict->lost_count && !memcmp(&verdict->lost[verdict->lost_count - 1], &operation, sizeof operation))
        return;
    if (verdict->lost_count == verdict->lost_room) {
        verdict->lost_room = verdict->lost_room ? verdict->lost_room * 2 : 256;
        verdict->lost = realloc(verdict->lost, verdict->lost_room * sizeof operation);
        if (!verdict->lost)
            abort();
    }
    verdict->lost[verdict->lost_count++] = operation;
}

static void note(const struct judge *judge, const char *what, const char *found, uint64_t lba, uint32_t found_seq)
{
    struct verdict *verdict = judge->verdict;
    const struct expected *expected = &judge->ledger->expected[lba];
    if (!strcmp(what, "corrupt"))
        verdict->corrupt++;
    else if (!strcmp(what, "doubtful"))
        verdict->doubtful++;
    else
        add_lost(verdict, expected);
    if (verdict->finding_count < MAX_FINDINGS)
        verdict->findings[verdict->finding_count++] = (struct finding){what, found, lba, *expected, found_seq};
}

static int in_prefill(const struct settings *settings, uint64_t lba)
{
    return settings->prefilled && lba < settings->prefill_bytes / SECTOR;
}

static enum content content_of(const struct judge *judge, const uint8_t *sector, uint64_t lba)
{
    if (sector_valid(sector))
        return CONTENT_LEDGER;
    if (in_prefill(judge->settings, lba) && prefill_same(sector, judge->settings->prefill_seed, lba))
        return CONTENT_PREFILL;
    return sector_zero(sector) ? CONTENT_ZERO : CONTENT_OTHER;
}

/* A whole sector of a guest's ledger: is it this guest's, at its place, and new enough? */
static void judge_written(const struct judge *judge, const uint8_t *sector, uint64_t lba)
{
    const struct expected *expected = &judge->ledger->expected[lba];
    struct sector_header head;
    memcpy(&head, sector, sizeof head);
    int boot = boot_number(judge->ledger, head.boot);
    if (head.vm != judge->settings->vm || head.disk != judge->settings->disk || head.lba != lba || head.writer >= MAX_WRITERS)
        note(judge, "corrupt", "a sector of another place", lba, head.seq);
    else if (!boot)
        note(judge, "corrupt", "a sector of an unknown boot", lba, head.seq);
    else if (expected->kind && boot == expected->boot && head.writer != expected->writer)
        note(judge, "corrupt", "a sector of another writer", lba, head.seq);
    else if (expected->kind && (boot < expected->boot || (boot == expected->boot && head.seq < expected->seq)))
        note(judge, "lost", "older data", lba, head.seq);
    else {
        judge->verdict->unreported += head.seq > judge->ledger->boots[boot].submitted[head.writer];
        judge->verdict->unacknowledged += !expected->kind || boot != expected->boot || head.seq != expected->seq;
    }
}

static int some_reports_lost(const struct ledger *ledger)
{
    for (int i = 1; i <= ledger->boot_count; i++)
        if (ledger->boots[i].reports_lost)
            return 1;
    return 0;
}

static void judge_zero(const struct judge *judge, uint64_t lba)
{
    const struct expected *expected = &judge->ledger->expected[lba];
    if (expected->kind == KIND_ZERO || expected->may_be_zero)
        return;
    if (some_reports_lost(judge->ledger) && (expected->kind || in_prefill(judge->settings, lba)))
        note(judge, "doubtful", "zeros, and reports are missing", lba, 0);
    else if (expected->kind)
        note(judge, "lost", "zeros", lba, 0);
    else if (in_prefill(judge->settings, lba))
        note(judge, "corrupt", "zeros in place of the first data", lba, 0);
}

static void judge_sector(const struct judge *judge, const uint8_t *sector, uint64_t lba)
{
    const struct expected *expected = &judge->ledger->expected[lba];
    uint32_t magic;
    memcpy(&magic, sector, sizeof magic);
    if (!expected->kind && !judge->settings->prefilled && magic != SECTOR_MAGIC)
        return;
    judge->verdict->checked++;
    switch (content_of(judge, sector, lba)) {
    case CONTENT_LEDGER:
        judge_written(judge, sector, lba);
        break;
    case CONTENT_ZERO:
        judge_zero(judge, lba);
        break;
    case CONTENT_PREFILL:
        if (expected->kind)
            note(judge, "lost", "first data", lba, 0);
        break;
    case CONTENT_OTHER:
        note(judge, "corrupt", "neither a whole sector nor known data", lba, 0);
    }
}

static int judge_data(const struct judge *judge, int fd, uint64_t from, uint64_t to)
{
    uint8_t *chunk = aligned_alloc(4096, CHUNK);
    while (chunk && from < to) {
        ssize_t length = pread(fd, chunk, to - from < CHUNK ? to - from : CHUNK, (off_t)from);
        if (length < SECTOR) {
            perror("ledger-verify: read");
            free(chunk);
            return -1;
        }
        length -= length % SECTOR;
        for (ssize_t i = 0; i < length; i += SECTOR)
            judge_sector(judge, chunk + i, (from + (uint64_t)i) / SECTOR);
        from += (uint64_t)length;
    }
    free(chunk);
    return 0;
}

static void judge_hole(const struct judge *judge, uint64_t from, uint64_t to)
{
    for (uint64_t lba = from / SECTOR; lba < to / SECTOR; lba++)
        if (judge->ledger->expected[lba].kind || in_prefill(judge->settings, lba)) {
            judge->verdict->checked++;
            judge_zero(judge, lba);
        }
}

static uint64_t seek(int fd, uint64_t from, int whence, uint64_t end)
{
    off_t at = lseek(fd, (off_t)from, whence);
    if (at < 0)
        return end;
    uint64_t found = (uint64_t)at / SECTOR * SECTOR;
    return found < end ? found : end;
}

int check_disk(const struct settings *settings, const struct ledger *ledger, struct verdict *verdict)
{
    struct judge judge = {settings, ledger, verdict};
    uint64_t end = ledger->sectors * SECTOR;
    int fd = open(settings->image, O_RDONLY | O_CLOEXEC), failed = fd < 0;
    for (uint64_t at = 0; !failed && at < end;) {
        uint64_t data = seek(fd, at, SEEK_DATA, end);
        judge_hole(&judge, at, data);
        at = data;
        if (data < end) {
            uint64_t hole = seek(fd, data, SEEK_HOLE, end);
            at = hole > data ? hole : end;
            failed = judge_data(&judge, fd, data, at);
        }
    }
    if (fd >= 0)
        close(fd);
    return failed ? -1 : 0;
}
