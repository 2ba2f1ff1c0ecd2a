/* The two formats of the ledger: a sector on the disk and a datagram to the recorder. Shared by the guest and by the
 * tools on the host; src/kvmove/lab/guest/datagrams.py says the same in Python.
 *
 * Invariant: every sector and every datagram can be judged on its own. All integers are little-endian (x86 only).
 */
#ifndef LEDGER_FORMAT_H
#define LEDGER_FORMAT_H

#include <stddef.h>
#include <stdint.h>

enum { SECTOR = 512, HEADER = 64, PAYLOAD_WORDS = (SECTOR - HEADER) / 8, SECTOR_WORDS = SECTOR / 8 };
enum { MAX_WRITERS = 16, MAX_DISKS = 8, MAX_SECTORS = 2049 }; /* a write is at most 1 MiB and a sector */

enum kind { KIND_WRITE = 1, KIND_ZERO = 2, KIND_DISCARD = 3, KIND_FLUSH = 4 };

#define SECTOR_MAGIC 0x4c4d564bu /* "KVML" */

/* The head of a sector that the guest wrote. The payload follows from boot, lba and seq, so a changed bit anywhere shows. */
struct sector_header {
    uint32_t magic;
    uint32_t crc32c; /* of the rest of this header */
    uint32_t vm;
    uint16_t writer;
    uint16_t kind;
    uint64_t boot;
    uint64_t lba;      /* in sectors */
    uint32_t seq;      /* of its writer, from 1 in each boot */
    uint32_t prev;     /* what this writer wrote to this 4 KiB before, 0 = nothing */
    uint32_t length;   /* bytes of the whole write */
    uint32_t index;    /* which sector of the write this is */
    uint64_t guest_ns; /* when it was submitted */
    uint64_t disk;
};
_Static_assert(sizeof(struct sector_header) == HEADER, "sector header");

#define DATAGRAM_MAGIC 0x444c564bu /* "KVLD" */
enum { DATAGRAM_MAX = 1400, DATAGRAM_VERSION = 1 };
enum datagram_type { TYPE_HEARTBEAT = 1, TYPE_REPORT = 2, TYPE_RECEIPT = 3 };

struct datagram_header {
    uint32_t magic;
    uint8_t version;
    uint8_t type;
    uint16_t length; /* of the whole datagram */
    uint32_t vm;
    uint32_t unused;
    uint64_t boot;
    uint64_t number;   /* counter of heartbeats, or of reports, from 1; in a receipt: all reports up to here arrived */
    uint64_t guest_ns; /* guest CLOCK_MONOTONIC when it was made */
};
_Static_assert(sizeof(struct datagram_header) == 40, "datagram header");

struct heartbeat {
    struct datagram_header head;
    uint64_t writes;
    uint32_t corrupt_pages;
    uint32_t io_errors;
    uint32_t tick_gap_us; /* time since the heartbeat before, on the guest's clock */
    uint32_t ram_sweeps;  /* how often the whole RAM ledger has been checked */
};
_Static_assert(sizeof(struct heartbeat) == 64, "heartbeat");

/* A writer as of the report. An intent is a zero or discard that may be done from now on: it is on record before it is
 * issued, so that zeros on the disk never surprise. At most one is open: intent > intent_done. */
struct writer_status {
    uint8_t writer;
    uint8_t disk;
    uint8_t intent_kind;
    uint8_t unused;
    uint32_t submitted; /* highest seq */
    uint32_t acked;
    uint32_t flushed; /* seq of the last completed flush */
    uint32_t intent;
    uint32_t intent_done;
    uint32_t intent_lba;
    uint32_t intent_sectors;
};
_Static_assert(sizeof(struct writer_status) == 32, "writer status");

/* One completed operation. */
struct record {
    uint32_t seq;
    uint32_t lba;
    uint16_t sectors;
    uint8_t kind;
    uint8_t writer;
    uint32_t done_us; /* after the report's base_ns */
    uint32_t latency_us;
};
_Static_assert(sizeof(struct record) == 20, "record");

struct report {
    struct datagram_header head;
    uint64_t base_ns;
    uint64_t oldest; /* number of the oldest report that the guest may still send */
    uint16_t writers;
    uint16_t records;
    uint32_t corrupt_pages;
    uint32_t io_errors;
    uint32_t reports_lost; /* overwritten before the recorder had them */
    /* writer_status[writers], record[records] */
};
_Static_assert(sizeof(struct report) == 72, "report");

uint32_t crc32c(const void *data, size_t length);
uint64_t mix64(uint64_t x);

/* Fills one sector. `header` needs everything but magic and crc32c. */
void sector_make(void *sector, struct sector_header header);
/* 1 when the sector is one that a guest wrote, whole and unchanged. */
int sector_valid(const void *sector);
int sector_zero(const void *sector);

/* What a prefilled disk holds at `lba`. */
void prefill_make(void *sector, uint64_t seed, uint64_t lba);
int prefill_same(const void *sector, uint64_t seed, uint64_t lba);

#endif
