"""How long the command line takes to answer: --help, --version and a usage error must take at most 0.3 s.

    python benchmarks/startup.py [--rounds 11]

Each round runs every command once, in turn, so that a machine whose speed drifts is the same for all; medians and
ranges are printed. Each command is measured with our byte-compiled files and without them, as in a container that sets
PYTHONDONTWRITEBYTECODE and never ran us before. A bare interpreter and `import typer` stand beside them for comparison,
and `import torch` for what is saved.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import thinkling

LIMIT_S = 0.3
PACKAGE = Path(thinkling.__file__).parent
COMMANDS = {
    "thinkling --help": ["-m", "thinkling", "--help"],
    "thinkling run --help": ["-m", "thinkling", "run", "--help"],
    "thinkling --version": ["-m", "thinkling", "--version"],
    "thinkling rnu": ["-m", "thinkling", "rnu"],
}
COMPARED = {
    "python": ["-c", "pass"],
    "import typer": ["-c", "import typer"],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: Sequence[str], environment: dict[str, str]) -> float:
    """Wall time of one interpreter."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
    return time.perf_counter() - started


def environments(folder: Path) -> dict[str, dict[str, str]]:
    """Two copies of the package to run: one compiled beforehand, one that never is."""
    made = {}
    for name in ("compiled", "not compiled"):
        home = folder / name.replace(" ", "-")
        shutil.copytree(PACKAGE, home / "thinkling", ignore=shutil.ignore_patterns("__pycache__"))
        if name == "compiled":
            subprocess.run([sys.executable, "-m", "compileall", "-q", str(home)], check=True)
        made[name] = {**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1", "THINKLING_LANG": "en"}
    return made


def measured(rounds: int) -> dict[tuple[str, str], list[float]]:
    """(command, compiled or not) to seconds, one a round, after one round that does not count."""
    with tempfile.TemporaryDirectory() as folder:
        homes = environments(Path(folder))
        cases = {(name, kind): (command, home) for name, command in COMMANDS.items() for kind, home in homes.items()}
        cases |= {(name, "-"): (command, dict(os.environ)) for name, command in COMPARED.items()}
        taken: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
        for number in range(rounds + 1):
            for case, (command, home) in cases.items():
                took = seconds(command, home)
                if number:
                    taken[case].append(took)
    return taken


def main() -> int:
    """Print the table; 1 where a command of ours is slower than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    slow = False
    print(f"{'command':<22}{'our files':<14}{'median':>8}{'fastest':>9}{'slowest':>9}")
    for (name, kind), times in measured(parser.parse_args().rounds).items():
        median = statistics.median(times)
        late = kind != "-" and median > LIMIT_S
        slow |= late
        mark = f"  over {LIMIT_S} s" if late else ""
        print(f"{name:<22}{kind:<14}{median:>8.3f}{min(times):>9.3f}{max(times):>9.3f}{mark}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
