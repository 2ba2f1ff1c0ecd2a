/* Reports to the recorder: every completed operation, in numbered datagrams that are kept and sent again until a receipt for
 * them comes back. So a break in the network delays the record and does not thin it, and since the ring of datagrams is guest
 * memory it moves with the guest.
 *
 * Invariant: a datagram never changes once it has its number; a second content under one number means a second guest.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "ledger.h"

enum { RING = 4096, BURST = 32 };
#define SEAL_NS 50000000ull
#define RESEND_NS 200000000ull

static struct {
    uint16_t length;
    uint8_t data[DATAGRAM_MAX];
} ring[RING];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int udp = -1;
static struct writer_status status[MAX_WRITERS];
static uint64_t intent_number[MAX_WRITERS];
static int writers;
static struct record pending[DATAGRAM_MAX / sizeof(struct record)];
static int pending_count;
static uint64_t pending_base_ns, last_seal_ns, last_done_ns;
static uint64_t sealed;                /* number of the newest report */
static _Atomic uint64_t received;      /* the recorder has all up to this */
static uint64_t progress_ns, resent_ns;
static uint64_t burst_end;    /* newest report of the last burst that was sent again */
static uint64_t recover_upto; /* newest report when the last silence was noticed; up to here bursts follow upon receipts */
static uint32_t reports_lost;

void report_start(void)
{
    if (!options.recorder.sin_port)
        return;
    udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (udp < 0)
        printf("ledger: ERROR socket: %m\n");
}

struct datagram_header report_header(enum datagram_type type, size_t length, uint64_t number, uint64_t at_ns)
{
    return (struct datagram_header){.magic = DATAGRAM_MAGIC, .version = DATAGRAM_VERSION, .type = (uint8_t)type,
                                    .length = (uint16_t)length, .vm = options.vm, .boot = boot_nonce, .number = number,
                                    .guest_ns = at_ns};
}

void report_send(const void *datagram, size_t length)
{
    if (udp >= 0)
        sendto(udp, datagram, length, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&options.recorder, sizeof options.recorder);
}

static int capacity(void)
{
    return (int)((DATAGRAM_MAX - sizeof(struct report) - sizeof(struct writer_status) * (size_t)writers) / sizeof(struct record));
}

static void seal(uint64_t at_ns)
{
    uint64_t number = ++sealed;
    if (number > RING && received < number - RING)
        reports_lost++;
    uint64_t oldest = received + 1 > number ? number : received + 1;
    if (number >= RING && oldest + RING <= number)
        oldest = number - RING + 1;
    uint8_t *at = ring[number % RING].data;
    size_t length = sizeof(struct report) + sizeof *status * (size_t)writers + sizeof *pending * (size_t)pending_count;
    struct report report = {.head = report_header(TYPE_REPORT, length, number, at_ns), .base_ns = pending_base_ns,
                            .oldest = oldest, .writers = (uint16_t)writers, .records = (uint16_t)pending_count,
                            .corrupt_pages = totals.corrupt_pages, .io_errors = totals.io_errors,
                            .reports_lost = reports_lost};
    memcpy(at, &report, sizeof report);
    memcpy(at + sizeof report, status, sizeof *status * (size_t)writers);
    memcpy(at + sizeof report + sizeof *status * (size_t)writers, pending, sizeof *pending * (size_t)pending_count);
    ring[number % RING].length = (uint16_t)length;
    pending_count = 0;
    last_seal_ns = at_ns;
    report_send(at, length);
}

void report_writer(int writer, int disk)
{
    pthread_mutex_lock(&lock);
    status[writer] = (struct writer_status){.writer = (uint8_t)writer, .disk = (uint8_t)disk};
    writers = writer + 1;
    pthread_mutex_unlock(&lock);
}

void report_submitted(int writer, uint32_t seq)
{
    __atomic_store_n(&status[writer].submitted, seq, __ATOMIC_RELAXED);
}

static void count_gap(uint64_t done_ns)
{
    if (last_done_ns && done_ns > last_done_ns && done_ns - last_done_ns > totals.longest_gap_ns)
        totals.longest_gap_ns = done_ns - last_done_ns;
    if (done_ns > last_done_ns)
        last_done_ns = done_ns;
}

void report_completed(struct record record, uint64_t submitted_ns)
{
    uint64_t done_ns = now_ns();
    pthread_mutex_lock(&lock);
    struct writer_status *writer = &status[record.writer];
    writer->acked = record.seq;
    if (record.kind == KIND_FLUSH)
        writer->flushed = record.seq;
    if (record.kind == KIND_ZERO || record.kind == KIND_DISCARD)
        writer->intent_done = writer->intent;
    if (record.kind == KIND_WRITE) {
        totals.writes++;
        count_gap(done_ns);
    }
    if (udp >= 0) {
        if (!pending_count)
            pending_base_ns = submitted_ns < last_done_ns ? submitted_ns : last_done_ns;
        record.done_us = done_ns > pending_base_ns ? (uint32_t)((done_ns - pending_base_ns) / 1000) : 0;
        record.latency_us = (uint32_t)((done_ns - submitted_ns) / 1000);
        pending[pending_count++] = record;
        if (pending_count >= capacity())
            seal(done_ns);
    }
    pthread_mutex_unlock(&lock);
}

void report_intent(int writer, enum kind kind, uint64_t lba, uint32_t sectors)
{
    pthread_mutex_lock(&lock);
    status[writer].intent++;
    status[writer].intent_kind = (uint8_t)kind;
    status[writer].intent_lba = (uint32_t)lba;
    status[writer].intent_sectors = sectors;
    if (udp >= 0)
        seal(now_ns());
    intent_number[writer] = sealed;
    pthread_mutex_unlock(&lock);
}

int report_intent_open(int writer)
{
    return status[writer].intent != status[writer].intent_done;
}

int report_intent_ready(int writer)
{
    return udp < 0 || received >= intent_number[writer];
}

/* A ring that ran over may have lost the record of a zero; from then on the guest makes no more of them. */
int report_intents_allowed(void)
{
    return reports_lost == 0;
}

uint64_t report_take_gap(void)
{
    pthread_mutex_lock(&lock);
    uint64_t gap = totals.longest_gap_ns;
    totals.longest_gap_ns = 0;
    pthread_mutex_unlock(&lock);
    return gap;
}

int report_receipt_seen(void)
{
    return received > 0;
}

static void take_receipts(uint64_t at_ns)
{
    struct datagram_header receipt;
    while (recv(udp, &receipt, sizeof receipt, MSG_DONTWAIT) == (ssize_t)sizeof receipt) {
        if (receipt.magic != DATAGRAM_MAGIC || receipt.type != TYPE_RECEIPT || receipt.boot != boot_nonce)
            continue;
        if (receipt.number > received && receipt.number <= sealed) {
            received = receipt.number;
            progress_ns = at_ns;
        }
    }
}

static void resend(uint64_t at_ns)
{
    uint64_t first = received + 1;
    if (sealed >= RING && first + RING <= sealed)
        first = sealed - RING + 1;
    burst_end = first + BURST - 1 < sealed ? first + BURST - 1 : sealed;
    for (uint64_t number = first; number <= burst_end; number++)
        report_send(ring[number % RING].data, ring[number % RING].length);
    resent_ns = at_ns;
}

/* Called with every heartbeat, so nothing here may wait long. */
void report_tick(uint64_t at_ns)
{
    if (udp < 0)
        return;
    pthread_mutex_lock(&lock);
    take_receipts(at_ns);
    if (at_ns - last_seal_ns >= SEAL_NS)
        seal(at_ns);
    int silence = received < sealed && at_ns - progress_ns > RESEND_NS && at_ns - resent_ns > RESEND_NS;
    if (silence)
        recover_upto = sealed;
    if (silence || (received >= burst_end && received < recover_upto))
        resend(at_ns);
    pthread_mutex_unlock(&lock);
}
