"""What an installed package needs here, one requirement per line, but for the packages named.

python needs.py PACKAGE [LEFT_OUT ...]
"""

from __future__ import annotations

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement


def needs(package: str, left_out: set[str]) -> list[str]:
    """Requirements of `package` that hold on this machine."""
    found: list[str] = []
    for requirement in map(Requirement, requires(package) or []):
        here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if here and requirement.name not in left_out:
            requirement.marker = None
            found.append(str(requirement))
    return found


if __name__ == "__main__":
    print("\n".join(needs(sys.argv[1], set(sys.argv[2:]))))
