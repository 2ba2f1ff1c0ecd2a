/* ledger-verify --image F --log F [--vm N] [--disk N] [--prefill BYTES:SEED] [--durable-only]: prints the verdict as one line of
 * JSON. Exit 0 when it could be judged, whatever the verdict; 1 when not; 2 for a wrong command line. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "verify.h"

static int parse(int argc, char **argv, struct settings *settings)
{
    static const struct option names[] = {
        {"image", 1, NULL, 'i'},   {"log", 1, NULL, 'l'},          {"vm", 1, NULL, 'v'}, {"disk", 1, NULL, 'd'},
        {"prefill", 1, NULL, 'p'}, {"durable-only", 0, NULL, 'f'}, {0},
    };
    char *rest = "";
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (name) {
        case 'i': settings->image = optarg; break;
        case 'l': settings->log = optarg; break;
        case 'v': settings->vm = (uint32_t)strtoul(optarg, NULL, 0); break;
        case 'd': settings->disk = (uint32_t)strtoul(optarg, NULL, 0); break;
        case 'f': settings->durable_only = 1; break;
        case 'p':
            settings->prefilled = 1;
            settings->prefill_bytes = strtoull(optarg, &rest, 0);
            settings->prefill_seed = *rest == ':' ? strtoull(rest + 1, NULL, 0) : 0;
            break;
        default: return -1;
        }
    return settings->image && settings->log && optind == argc ? 0 : -1;
}

static int by_operation(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct operation));
}

/* A write that is missing in several places is one lost write. */
static size_t count_lost(struct verdict *verdict)
{
    size_t count = 0;
    if (verdict->lost_count)
        qsort(verdict->lost, verdict->lost_count, sizeof *verdict->lost, by_operation);
    for (size_t i = 0; i < verdict->lost_count; i++)
        count += !i || by_operation(&verdict->lost[i], &verdict->lost[i - 1]) != 0;
    return count;
}

static void print_findings(const struct verdict *verdict, const struct ledger *ledger)
{
    for (int i = 0; i < verdict->finding_count; i++) {
        const struct finding *f = &verdict->findings[i];
        printf("%s{\"what\":\"%s\",\"lba\":%llu,\"found\":\"%s\",\"found_seq\":%u,\"expected_seq\":%u,\"expected_kind\":%u,"
               "\"writer\":%u,\"boot\":\"%016llx\"}",
               i ? "," : "", f->what, (unsigned long long)f->lba, f->found, f->found_seq, f->expected.seq, f->expected.kind,
               f->expected.writer, (unsigned long long)ledger->boots[f->expected.boot].nonce);
    }
}

int main(int argc, char **argv)
{
    struct settings settings = {.vm = 1};
    static struct ledger ledger;
    static struct verdict verdict;
    struct stat about;
    if (parse(argc, argv, &settings)) {
        fprintf(stderr, "usage: ledger-verify --image F --log F [--vm N] [--disk N] [--prefill BYTES:SEED] [--durable-only]\n");
        return 2;
    }
    if (stat(settings.image, &about)) {
        perror(settings.image);
        return 1;
    }
    ledger.sectors = (uint64_t)about.st_size / SECTOR;
    if (load_log(&settings, &ledger, &verdict) || check_disk(&settings, &ledger, &verdict))
        return 1;
    printf("{\"acknowledged\":%llu,\"lost\":%zu,\"corrupt\":%llu,\"checked\":%llu,\"doubtful\":%llu,\"lost_sectors\":%llu,"
           "\"unacknowledged\":%llu,\"unreported\":%llu,\"boots\":%d,\"findings\":[",
           (unsigned long long)ledger.acknowledged, count_lost(&verdict), (unsigned long long)verdict.corrupt,
           (unsigned long long)verdict.checked, (unsigned long long)verdict.doubtful, (unsigned long long)verdict.lost_sectors,
           (unsigned long long)verdict.unacknowledged, (unsigned long long)verdict.unreported, ledger.boot_count);
    print_findings(&verdict, &ledger);
    printf("]}\n");
    return 0;
}
