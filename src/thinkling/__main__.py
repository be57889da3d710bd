"""`thinkling` and `python -m thinkling`: the way in, and the way every error leaves."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from thinkling.cli.main import main as command_line

    sys.exit(command_line())


if __name__ == "__main__":
    main()
