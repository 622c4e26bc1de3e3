"""`python -m openbrain`: the `openbrain` command that was installed with this package."""

from __future__ import annotations

import os
import signal
import sys
from importlib import metadata


def command() -> str:
    """The path of the command: the installer's own record knows where it put it."""
    for file in metadata.files("openbrain") or ():
        path = str(file.locate())
        if file.name == "openbrain" and os.access(path, os.X_OK) and os.path.isfile(path):
            return os.path.realpath(path)
    sys.exit("the `openbrain` command is not installed; reinstall the package with pip")


def main() -> None:
    """Becomes the command."""
    path = command()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        # Python ignores them, which a program that it becomes would inherit.
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(path, ["openbrain", *sys.argv[1:]])


if __name__ == "__main__":
    main()
