"""Where VMs should be: pure policies over a picture of all hosts. Nothing here asks, waits or moves anything."""
