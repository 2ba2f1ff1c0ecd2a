/* ledger-prefill IMAGE SIZE DATA_BYTES SEED: makes a raw image whose first DATA_BYTES are random but verifiable and the rest a
 * hole. Runs on the host; the page cache takes it at memory speed. An image that exists is replaced. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ledger_format.h"

enum { CHUNK = 4 << 20 };

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: ledger-prefill IMAGE SIZE DATA_BYTES SEED\n");
        return 2;
    }
    uint64_t size = strtoull(argv[2], NULL, 0), data = strtoull(argv[3], NULL, 0), seed = strtoull(argv[4], NULL, 0);
    if (size % SECTOR || data % SECTOR || data > size) {
        fprintf(stderr, "ledger-prefill: sizes must be whole sectors, and the data no more than the size\n");
        return 2;
    }
    uint8_t *chunk = malloc(CHUNK);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (!chunk || fd < 0 || ftruncate(fd, (off_t)size)) {
        perror(argv[1]);
        return 1;
    }
    for (uint64_t at = 0; at < data;) {
        size_t length = data - at < CHUNK ? data - at : CHUNK;
        for (size_t i = 0; i < length; i += SECTOR)
            prefill_make(chunk + i, seed, (at + i) / SECTOR);
        ssize_t done = write(fd, chunk, length);
        if (done <= 0 || done % SECTOR) {
            perror(argv[1]);
            return 1;
        }
        at += (uint64_t)done;
    }
    return close(fd) ? 1 : 0;
}
