/* Reads `ledger.*` from the kernel's command line. Unknown options and bad values are printed and left at their defaults. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ledger.h"

static uint64_t size_value(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 0);
    const char *suffix = "KMG", *found = *end ? strchr(suffix, *end) : NULL;
    return found ? value << (10 * (found - suffix + 1)) : value;
}

static void parse_recorder(char *value)
{
    char *colon = strrchr(value, ':');
    if (!colon)
        return;
    *colon = 0;
    options.recorder.sin_family = AF_INET;
    if (inet_pton(AF_INET, value, &options.recorder.sin_addr) == 1)
        options.recorder.sin_port = htons((uint16_t)atoi(colon + 1));
}

static int parse_mode(const char *value)
{
    static const char *const names[] = {"random4k", "mixed", "idle"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(value, names[i])) {
            options.mode = (enum mode)i;
            return 1;
        }
    return 0;
}

static int parse_text(const char *name, char *value)
{
    if (!strcmp(name, "ip"))
        return snprintf(options.ip, sizeof options.ip, "%s", value) > 0;
    if (!strcmp(name, "gw"))
        return snprintf(options.gateway, sizeof options.gateway, "%s", value) > 0;
    if (!strcmp(name, "recorder")) {
        parse_recorder(value);
        return options.recorder.sin_port != 0;
    }
    if (!strcmp(name, "mode"))
        return parse_mode(value);
    if (!strcmp(name, "span")) {
        options.span = size_value(value);
        return 1;
    }
    if (!strcmp(name, "plant"))
        return options.plant_ram_corrupt = !strcmp(value, "ram_corrupt");
    return 0;
}

static int parse_number(const char *name, const char *value)
{
    const struct {
        const char *name;
        uint32_t *into;
    } numbers[] = {
        {"vm", &options.vm},           {"rate", &options.rate},         {"fill", &options.fill_mib},
        {"ram", &options.ram_mib},     {"ram_rate", &options.ram_rate}, {"sweep", &options.sweep_seconds},
        {"heartbeat_ms", &options.heartbeat_ms},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(name, numbers[i].name)) {
            *numbers[i].into = (uint32_t)strtoul(value, NULL, 0);
            return 1;
        }
    if (!strcmp(name, "writers")) {
        options.writers = atoi(value);
        return 1;
    }
    return 0;
}

void options_parse(const char *command_line)
{
    options = (struct options){.vm = 1, .sweep_seconds = 5, .ram_mib = 64, .ram_rate = 1000, .heartbeat_ms = 5};
    char text[4096], *next = NULL;
    snprintf(text, sizeof text, "%s", command_line);
    for (char *word = strtok_r(text, " \n", &next); word; word = strtok_r(NULL, " \n", &next)) {
        char *value = strchr(word, '=');
        if (strncmp(word, "ledger.", 7) || !value)
            continue;
        *value++ = 0;
        if (!parse_number(word + 7, value) && !parse_text(word + 7, value))
            printf("ledger: ERROR option %s=%s is not understood\n", word, value);
    }
    if (options.writers <= 0)
        options.writers = options.mode == MODE_MIXED ? 4 : 1;
    if (options.writers > MAX_WRITERS)
        options.writers = MAX_WRITERS;
    if (!options.heartbeat_ms)
        options.heartbeat_ms = 5;
    if (!options.sweep_seconds)
        options.sweep_seconds = 5;
}
