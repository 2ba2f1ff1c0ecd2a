/* The pulse: one datagram every few milliseconds with a counter and the guest's clock. It runs at real-time priority, so a gap
 * between two pulses is the machine's or the network's doing and not that of a busy guest. */
#include "ledger.h"

void *heartbeat_run(void *unused)
{
    (void)unused;
    uint64_t period = options.heartbeat_ms * 1000000ull, due = now_ns(), before = due;
    for (uint64_t counter = 1;; counter++) {
        uint64_t at = now_ns();
        struct heartbeat beat = {.head = report_header(TYPE_HEARTBEAT, sizeof beat, counter, at), .writes = totals.writes,
                                 .corrupt_pages = totals.corrupt_pages, .io_errors = totals.io_errors,
                                 .tick_gap_us = (uint32_t)((at - before) / 1000), .ram_sweeps = totals.ram_sweeps};
        report_send(&beat, sizeof beat);
        report_tick(at);
        before = at;
        due += period;
        if (due < now_ns())
            due = now_ns() + period; /* late: no burst to catch up */
        sleep_until(due);
    }
}
