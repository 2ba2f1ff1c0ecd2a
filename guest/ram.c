/* The RAM ledger: pages that are changed without end, each bound to its own past, and checked against a hash that is kept
 * elsewhere, so a page that stayed old while the rest moved on is found as well as one with a wrong bit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ledger.h"

enum { PAGE_WORDS = 512, PAGE = 4096 };
#define TICK_NS 10000000ull

struct page {
    uint64_t index;
    uint64_t generation;
    uint64_t chain; /* hash of this page as it was before */
    uint64_t words[PAGE_WORDS - 3];
};

static struct page *pages;
static uint64_t *expected;
static uint64_t count;

static uint64_t hash_page(const struct page *page)
{
    const uint64_t *words = (const uint64_t *)page;
    uint64_t hash = 1;
    for (int i = 0; i < PAGE_WORDS; i++)
        hash = (hash ^ words[i]) * 0xbf58476d1ce4e5b9ull + (hash >> 29);
    return hash;
}

static void write_page(uint64_t index, uint64_t generation, uint64_t chain)
{
    struct page *page = &pages[index];
    page->index = index;
    page->generation = generation;
    page->chain = chain;
    uint64_t word = mix64(index ^ generation << 32 ^ chain);
    for (int i = 0; i < PAGE_WORDS - 3; i++)
        page->words[i] = word += 0x9e3779b97f4a7c15ull;
    expected[index] = hash_page(page);
}

/* A corrupt page is counted once and written anew. */
static int check_page(uint64_t index)
{
    if (hash_page(&pages[index]) == expected[index])
        return 1;
    totals.corrupt_pages++;
    printf("ledger: CORRUPT page=%llu generation=%llu total=%u\n", (unsigned long long)index,
           (unsigned long long)pages[index].generation, totals.corrupt_pages);
    write_page(index, 1, 0);
    return 0;
}

static void dirty_page(uint64_t index)
{
    if (check_page(index))
        write_page(index, pages[index].generation + 1, expected[index]);
}

static uint64_t stride_for(uint64_t pages_count)
{
    for (uint64_t stride = pages_count * 618 / 1000 | 1;; stride += 2) {
        uint64_t a = stride, b = pages_count;
        while (b) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return stride;
    }
}

static void allocate(void)
{
    count = (uint64_t)options.ram_mib * 256;
    pages = aligned_alloc(PAGE, count * PAGE);
    expected = malloc(count * sizeof *expected);
    if (!pages || !expected) {
        printf("ledger: ERROR no memory for a RAM ledger of %u MiB\n", options.ram_mib);
        count = 0;
        return;
    }
    for (uint64_t i = 0; i < count; i++)
        write_page(i, 1, 0);
}

void *ram_run(void *unused)
{
    (void)unused;
    allocate();
    if (!count)
        return NULL;
    uint64_t stride = stride_for(count), dirty_at = 0, checked = 0, owed = 0, start = now_ns(), due = start;
    int planted = !options.plant_ram_corrupt;
    for (;;) {
        owed += options.ram_rate * (TICK_NS / 1000000);
        for (; owed >= 1000; owed -= 1000) {
            dirty_page(dirty_at);
            dirty_at = (dirty_at + stride) % count;
            check_page(checked++ % count);
        }
        totals.ram_sweeps = (uint32_t)(checked / count);
        if (!planted && now_ns() - start > 2000000000ull) {
            pages[(dirty_at + stride * 7) % count].words[100] ^= 1ull << 17;
            planted = 1;
        }
        due += TICK_NS;
        if (due < now_ns())
            due = now_ns();
        sleep_until(due);
    }
}
