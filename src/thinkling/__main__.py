"""`thinkling` and `python -m thinkling`: the way in, and the way every error leaves."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _open_what_is_closed()
    try:
        from thinkling.cli.main import main as command_line

        code = command_line()
    except KeyboardInterrupt:  # while the command line itself was being loaded
        sys.stderr.write("\nstopped by Ctrl-C\n")
        code = 130
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Where the shell has closed a standard stream (`>&-`), nothing takes its place: not the next file that is opened.

    Python sets such a stream to None, which no library expects.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives


if __name__ == "__main__":
    main()
