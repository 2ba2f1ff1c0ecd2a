/* Brings a bare kernel to life: file systems, console, modules, network card, and a nonce that no other boot has. */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "ledger.h"

static void complain(const char *what)
{
    printf("ledger: ERROR %s: %m\n", what);
}

static void open_console(void)
{
    int fd = open("/dev/console", O_RDWR);
    for (int i = 0; fd >= 0 && i < 3; i++)
        dup2(fd, i);
    if (fd > 2)
        close(fd);
}

static void load_modules(void)
{
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] == '.')
            continue;
        char path[300];
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
            complain(path);
        close(fd);
    }
}

void setup_system(void)
{
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    open_console();
    if (mount("proc", "/proc", "proc", 0, "") || mount("sysfs", "/sys", "sysfs", 0, ""))
        complain("mount");
    load_modules();
}

static void set_address(int fd, struct ifreq *card, unsigned long request, uint32_t address)
{
    struct sockaddr_in *in = (struct sockaddr_in *)&card->ifr_addr;
    *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = address};
    if (ioctl(fd, request, card))
        complain("address of eth0");
}

static void set_gateway(int fd)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    struct sockaddr_in any = {.sin_family = AF_INET}, gateway = any;
    inet_pton(AF_INET, options.gateway, &gateway.sin_addr);
    memcpy(&route.rt_dst, &any, sizeof any);
    memcpy(&route.rt_genmask, &any, sizeof any);
    memcpy(&route.rt_gateway, &gateway, sizeof gateway);
    if (ioctl(fd, SIOCADDRT, &route))
        complain("default gateway");
}

void setup_network(void)
{
    char *slash = strchr(options.ip, '/');
    int bits = slash ? atoi(slash + 1) : 24;
    struct in_addr address;
    if (!options.ip[0])
        return;
    if (slash)
        *slash = 0;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || inet_pton(AF_INET, options.ip, &address) != 1) {
        complain("ledger.ip");
        return;
    }
    struct ifreq card = {.ifr_name = "eth0"};
    set_address(fd, &card, SIOCSIFADDR, address.s_addr);
    set_address(fd, &card, SIOCSIFNETMASK, htonl(bits ? ~0u << (32 - bits) : 0));
    card.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(fd, SIOCSIFFLAGS, &card))
        complain("eth0 up");
    if (options.gateway[0])
        set_gateway(fd);
    close(fd);
}

/* So early the kernel's pool may hold little, hence also the two clocks that differ from boot to boot. */
uint64_t setup_nonce(void)
{
    uint64_t pool = 0;
    struct timespec wall;
    if (getrandom(&pool, sizeof pool, GRND_INSECURE) != sizeof pool)
        complain("getrandom");
    clock_gettime(CLOCK_REALTIME, &wall);
    uint64_t nonce = mix64(pool ^ mix64((uint64_t)wall.tv_sec * 1000000000ull + (uint64_t)wall.tv_nsec) ^ mix64(__rdtsc() + 1));
    return nonce ? nonce : 1;
}
