/* Makes and checks single sectors: the guest's own and those of a prefilled disk. Pure; used in the guest and on the host. */
#include <string.h>

#include "ledger_format.h"

#define GOLDEN 0x9e3779b97f4a7c15ull

static uint32_t crc_table[256];

__attribute__((constructor)) static void crc_table_make(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0x82f63b78u & -(crc & 1));
        crc_table[i] = crc;
    }
}

uint32_t crc32c(const void *data, size_t length)
{
    const uint8_t *byte = data;
    uint32_t crc = ~0u;
    while (length--)
        crc = (crc >> 8) ^ crc_table[(crc ^ *byte++) & 0xff];
    return ~crc;
}

/* splitmix64's finaliser. */
uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t payload_key(const struct sector_header *header)
{
    return mix64(header->boot ^ mix64(header->lba * GOLDEN + header->seq) ^ (header->disk << 56));
}

/* The word at `i` of the stream `key`: one multiply, and no two words alike to a compressor. */
static inline uint64_t stream_word(uint64_t key, uint64_t i)
{
    uint64_t x = (key + i * GOLDEN) * 0xbf58476d1ce4e5b9ull;
    return x ^ (x >> 29);
}

static void stream_fill(uint64_t *words, int count, uint64_t key)
{
    for (int i = 0; i < count; i++)
        words[i] = stream_word(key, (uint64_t)i);
}

static int stream_same(const uint64_t *words, int count, uint64_t key)
{
    uint64_t different = 0;
    for (int i = 0; i < count; i++)
        different |= words[i] ^ stream_word(key, (uint64_t)i);
    return different == 0;
}

void sector_make(void *sector, struct sector_header header)
{
    header.magic = SECTOR_MAGIC;
    header.crc32c = crc32c((const uint8_t *)&header + 8, HEADER - 8);
    memcpy(sector, &header, HEADER);
    stream_fill((uint64_t *)((uint8_t *)sector + HEADER), PAYLOAD_WORDS, payload_key(&header));
}

int sector_valid(const void *sector)
{
    struct sector_header header;
    memcpy(&header, sector, HEADER);
    return header.magic == SECTOR_MAGIC && header.crc32c == crc32c((const uint8_t *)&header + 8, HEADER - 8) &&
           stream_same((const uint64_t *)((const uint8_t *)sector + HEADER), PAYLOAD_WORDS, payload_key(&header));
}

int sector_zero(const void *sector)
{
    const uint64_t *words = sector;
    uint64_t any = 0;
    for (int i = 0; i < SECTOR_WORDS; i++)
        any |= words[i];
    return any == 0;
}

static uint64_t prefill_key(uint64_t seed, uint64_t lba)
{
    return mix64(mix64(seed) + lba * GOLDEN);
}

void prefill_make(void *sector, uint64_t seed, uint64_t lba)
{
    stream_fill(sector, SECTOR_WORDS, prefill_key(seed, lba));
}

int prefill_same(const void *sector, uint64_t seed, uint64_t lba)
{
    return stream_same(sector, SECTOR_WORDS, prefill_key(seed, lba));
}
