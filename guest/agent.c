/* Starts QEMU's guest agent where the image has it (agent_image.py), and gives it something to trim: the file system on the second
 * disk, from which the file `ballast` is removed. In the common image there is no agent, and nothing happens here. */
#include <dirent.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger.h"

#define AGENT "/usr/sbin/qemu-ga"
#define TRIES 200

static int is_port(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* The driver makes its port a moment after it was loaded; without udev the port has only the kernel's name. */
static int find_port(char *path, size_t size)
{
    struct dirent **names;
    for (int i = 0; i < TRIES; i++) {
        if (scandir("/sys/class/virtio-ports", &names, is_port, alphasort) > 0) {
            snprintf(path, size, "/dev/%s", names[0]->d_name);
            return 1;
        }
        usleep(50000);
    }
    return 0;
}

static void become_agent(void)
{
    char port[300];
    if (find_port(port, sizeof port))
        execl(AGENT, AGENT, "-m", "virtio-serial", "-p", port, "-t", "/tmp", (char *)NULL);
    printf("ledger: ERROR the guest agent does not start: %m\n");
    _exit(1);
}

void agent_start(void)
{
    if (access(AGENT, X_OK))
        return;
    mkdir("/mnt", 0755);
    mkdir("/tmp", 0755);
    if (mount("/dev/vdb", "/mnt", "ext4", 0, "") || unlink("/mnt/ballast"))
        printf("ledger: ERROR ballast: %m\n");
    sync();
    if (!fork())
        become_agent();
    printf("ledger: the guest agent starts\n");
}
