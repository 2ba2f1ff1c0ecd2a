/* ledger-verify's parts: verify_log.c turns the recorder's log into what each sector must hold, verify_disk.c reads the disk
 * and judges, verify.c is the command. */
#ifndef VERIFY_H
#define VERIFY_H

#include "ledger_format.h"

enum { MAX_BOOTS = 250, MAX_FINDINGS = 20 };

struct settings {
    const char *image, *log;
    uint32_t vm, disk;
    int prefilled;
    uint64_t prefill_bytes, prefill_seed;
    int durable_only; /* only what a completed flush covers must be there (power was cut) */
};

/* What a sector must hold: the newest acknowledged state, or anything newer. kind 0: nothing was acknowledged. */
struct expected {
    uint32_t seq;
    uint8_t boot; /* number in the order of their arrival, from 1 */
    uint8_t kind;
    uint8_t writer;
    uint8_t may_be_zero; /* a discard, or a zero that may or may not have been done */
};

struct boot {
    uint64_t nonce;
    uint32_t submitted[MAX_WRITERS];
    uint32_t reports_lost;
};

struct operation {
    uint32_t seq;
    uint16_t boot, writer; /* no padding: compared as bytes */
};

struct ledger {
    uint64_t sectors;
    struct expected *expected; /* one per sector of the image */
    struct boot boots[MAX_BOOTS + 1];
    int boot_count;
    uint64_t acknowledged;
};

struct finding {
    const char *what, *found;
    uint64_t lba;
    struct expected expected;
    uint32_t found_seq;
};

struct verdict {
    uint64_t checked, corrupt, doubtful, lost_sectors, unreported, unacknowledged;
    struct operation *lost;
    size_t lost_count, lost_room;
    struct finding findings[MAX_FINDINGS];
    int finding_count;
};

/* Both return 0, or -1 after a message on stderr. */
int load_log(const struct settings *settings, struct ledger *ledger, struct verdict *verdict);
int check_disk(const struct settings *settings, const struct ledger *ledger, struct verdict *verdict);

void add_lost(struct verdict *verdict, const struct expected *expected);
int boot_number(const struct ledger *ledger, uint64_t nonce);

#endif
