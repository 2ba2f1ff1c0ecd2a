/* Reads the recorder's log and works out, per sector, the newest acknowledged state.
 *
 * Invariant: reports are applied boot by boot and in their own order, never in the order of arrival, since a report may have
 * been sent again after a break.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "verify.h"

struct log_head {
    char magic[8];
    uint64_t version;
};

struct log_entry {
    uint64_t arrival_ns;
    uint32_t address;
    uint16_t port;
    uint16_t length;
};

struct listed {
    uint64_t number;
    int boot;
    const struct report *report;
};

struct reports {
    struct listed *list;
    size_t count, room;
};

/* What is known of a boot's writers while its reports are applied. */
struct writers {
    struct writer_status status[MAX_WRITERS];
    uint8_t known[MAX_WRITERS];
    uint32_t durable[MAX_WRITERS]; /* seq of the last acknowledged flush */
};

static const struct writer_status *statuses(const struct report *report)
{
    return (const struct writer_status *)(report + 1);
}

static const struct record *records(const struct report *report)
{
    return (const struct record *)(statuses(report) + report->writers);
}

int boot_number(const struct ledger *ledger, uint64_t nonce)
{
    for (int i = ledger->boot_count; i > 0; i--)
        if (ledger->boots[i].nonce == nonce)
            return i;
    return 0;
}

static int take_boot(struct ledger *ledger, uint64_t nonce)
{
    int found = boot_number(ledger, nonce);
    if (found || ledger->boot_count == MAX_BOOTS)
        return found;
    ledger->boots[++ledger->boot_count].nonce = nonce;
    return ledger->boot_count;
}

static int whole_report(const struct report *report, size_t length)
{
    return length >= sizeof *report && report->head.type == TYPE_REPORT && report->writers <= MAX_WRITERS &&
           length == sizeof *report + report->writers * sizeof(struct writer_status) + report->records * sizeof(struct record);
}

static void list_report(struct reports *reports, const struct report *report, int boot)
{
    if (reports->count == reports->room) {
        reports->room = reports->room ? reports->room * 2 : 4096;
        reports->list = realloc(reports->list, reports->room * sizeof *reports->list);
        if (!reports->list)
            abort();
    }
    reports->list[reports->count++] = (struct listed){report->head.number, boot, report};
}

static int by_number(const void *a, const void *b)
{
    const struct listed *x = a, *y = b;
    if (x->boot != y->boot)
        return x->boot < y->boot ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static void read_entries(const uint8_t *log, size_t size, const struct settings *settings, struct ledger *ledger,
                         struct reports *reports)
{
    for (size_t at = sizeof(struct log_head); at + sizeof(struct log_entry) <= size;) {
        struct log_entry entry;
        memcpy(&entry, log + at, sizeof entry);
        at += sizeof entry;
        const struct datagram_header *head = (const struct datagram_header *)(log + at);
        if (at + entry.length > size)
            break; /* the recorder is still writing it */
        at += entry.length;
        if (entry.length < sizeof *head || head->magic != DATAGRAM_MAGIC || head->vm != settings->vm)
            continue;
        int boot = take_boot(ledger, head->boot);
        if (boot && whole_report((const struct report *)head, entry.length))
            list_report(reports, (const struct report *)head, boot);
    }
    if (reports->count)
        qsort(reports->list, reports->count, sizeof *reports->list, by_number);
}

static void apply(struct ledger *ledger, struct verdict *verdict, int boot, const struct record *record, int required)
{
    struct expected state = {.seq = record->seq, .boot = (uint8_t)boot, .kind = record->kind, .writer = record->writer};
    if (record->kind == KIND_FLUSH)
        return;
    if (record->lba + (uint64_t)record->sectors > ledger->sectors) {
        if (required && record->kind != KIND_DISCARD)
            add_lost(verdict, &state);
        return;
    }
    for (uint32_t i = 0; i < record->sectors; i++) {
        struct expected *sector = &ledger->expected[record->lba + i];
        if (record->kind == KIND_DISCARD || (record->kind == KIND_ZERO && !required))
            sector->may_be_zero = 1;
        else if (required)
            *sector = state;
    }
}

static void learn_writers(struct writers *writers, struct boot *boot, const struct report *report)
{
    for (int i = 0; i < report->writers; i++) {
        const struct writer_status *status = &statuses(report)[i];
        if (status->writer >= MAX_WRITERS)
            continue;
        writers->status[status->writer] = *status;
        writers->known[status->writer] = 1;
        boot->submitted[status->writer] = status->submitted;
    }
    for (int i = 0; i < report->records; i++) {
        const struct record *record = &records(report)[i];
        if (record->writer < MAX_WRITERS && record->kind == KIND_FLUSH)
            writers->durable[record->writer] = record->seq;
    }
    boot->reports_lost = report->reports_lost;
}

/* A zero or discard that was announced and not reported as done may have been done, in whole or in part. */
static void apply_open_intents(struct ledger *ledger, const struct settings *settings, const struct writers *writers)
{
    for (int i = 0; i < MAX_WRITERS; i++) {
        const struct writer_status *status = &writers->status[i];
        if (!writers->known[i] || status->disk != settings->disk || status->intent == status->intent_done)
            continue;
        for (uint64_t lba = status->intent_lba; lba < (uint64_t)status->intent_lba + status->intent_sectors; lba++)
            if (lba < ledger->sectors)
                ledger->expected[lba].may_be_zero = 1;
    }
}

static void apply_boot(struct ledger *ledger, const struct settings *settings, const struct listed *list, size_t count,
                       struct verdict *verdict)
{
    struct writers writers = {0};
    int boot = list[0].boot;
    for (size_t r = 0; r < count; r++)
        learn_writers(&writers, &ledger->boots[boot], list[r].report);
    for (size_t r = 0; r < count; r++) {
        if (r && list[r].number == list[r - 1].number)
            continue;
        for (int i = 0; i < list[r].report->records; i++) {
            const struct record *record = &records(list[r].report)[i];
            if (record->writer >= MAX_WRITERS || writers.status[record->writer].disk != settings->disk)
                continue;
            ledger->acknowledged += record->kind != KIND_FLUSH;
            apply(ledger, verdict, boot, record, !settings->durable_only || record->seq <= writers.durable[record->writer]);
        }
    }
    apply_open_intents(ledger, settings, &writers);
}

static const uint8_t *map_file(const char *path, size_t *size)
{
    struct stat about;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) || (size_t)about.st_size < sizeof(struct log_head)) {
        fprintf(stderr, "ledger-verify: %s: not a log of the recorder\n", path);
        return NULL;
    }
    *size = (size_t)about.st_size;
    const uint8_t *log = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (log == MAP_FAILED || memcmp(log, "KVLEDGER", 8)) {
        fprintf(stderr, "ledger-verify: %s: not a log of the recorder\n", path);
        return NULL;
    }
    return log;
}

int load_log(const struct settings *settings, struct ledger *ledger, struct verdict *verdict)
{
    size_t size;
    struct reports reports = {0};
    const uint8_t *log = map_file(settings->log, &size);
    ledger->expected = calloc(ledger->sectors + 1, sizeof *ledger->expected);
    if (!log || !ledger->expected)
        return -1;
    read_entries(log, size, settings, ledger, &reports);
    for (size_t first = 0, end; first < reports.count; first = end) {
        for (end = first; end < reports.count && reports.list[end].boot == reports.list[first].boot;)
            end++;
        apply_boot(ledger, settings, reports.list + first, end - first, verdict);
    }
    return 0;
}
