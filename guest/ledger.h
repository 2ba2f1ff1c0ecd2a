/* What the parts of the guest's /init share. main.c starts them; each thread owns its own state and meets the others only
 * through report.c, which has the one lock. */
#ifndef LEDGER_H
#define LEDGER_H

#include <netinet/in.h>
#include <stdint.h>

#include "ledger_format.h"

enum mode { MODE_RANDOM4K, MODE_MIXED, MODE_IDLE };

struct options {
    uint32_t vm;
    enum mode mode;
    char ip[32]; /* A.B.C.D/N */
    char gateway[16];
    struct sockaddr_in recorder; /* sin_port 0: none */
    uint64_t span;               /* bytes, 0 = whole disk */
    int writers;                 /* 0 = by mode */
    uint32_t rate;
    uint32_t fill_mib;
    uint32_t sweep_seconds;
    uint32_t ram_mib;
    uint32_t ram_rate;
    uint32_t heartbeat_ms;
    int plant_ram_corrupt;
};

/* Counters that every part may read at any time. */
struct totals {
    uint64_t writes;
    uint32_t corrupt_pages;
    uint32_t io_errors;
    uint32_t ram_sweeps;
    uint64_t longest_gap_ns; /* between two completions since it was last taken */
};

extern struct options options;
extern struct totals totals;
extern uint64_t boot_nonce;

uint64_t now_ns(void);
void sleep_until(uint64_t at_ns);
uint64_t random_next(uint64_t *state);
void start_thread(void *(*run)(void *), void *argument, int realtime);

/* options.c */
void options_parse(const char *command_line);

/* setup.c */
void setup_system(void);
void setup_network(void);
uint64_t setup_nonce(void);

/* report.c */
void report_start(void);
struct datagram_header report_header(enum datagram_type type, size_t length, uint64_t number, uint64_t at_ns);
void report_send(const void *datagram, size_t length);
void report_writer(int writer, int disk);
void report_submitted(int writer, uint32_t seq);
void report_completed(struct record record, uint64_t submitted_ns);
void report_intent(int writer, enum kind kind, uint64_t lba, uint32_t sectors);
int report_intent_open(int writer);  /* an intent is waiting for its receipt or to be done */
int report_intent_ready(int writer); /* ... and the recorder has it: go */
int report_intents_allowed(void);
uint64_t report_take_gap(void);
void report_tick(uint64_t at_ns);
int report_receipt_seen(void);

/* agent.c, heartbeat.c, writer.c, ram.c */
void agent_start(void);
void *heartbeat_run(void *unused);
void writers_start(void);
void *ram_run(void *unused);

#endif
