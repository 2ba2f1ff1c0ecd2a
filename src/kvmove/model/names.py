"""What names may look like: they become file, interface and unit names, so the alphabet is small."""

from typing import Annotated

from pydantic import StringConstraints

NAME_PATTERN = r"^[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?$"
"""Letters, digits, inner dots, dashes and underscores, 63 at most: nothing that could leave a folder."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Name of a VM, host, datastore, disk or NIC."""
