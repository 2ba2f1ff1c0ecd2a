"""kvmove moves running QEMU/KVM virtual machines, memory and disks together, between hosts that share nothing."""

__version__ = "0.1.0"
