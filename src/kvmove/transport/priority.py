"""Who comes first on a busy host: the guests, before the data of a move.

Linux has a nice value for each thread. Those that carry a move's bulk run below the guests' vCPUs; on a host with a
core to spare this changes nothing.
"""

import os
import threading

BULK = 5
"""Nice value of the threads that read, send, receive and write a move's data."""


def yield_to_guests() -> None:
    """The calling thread carries bulk data from now on."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BULK)
