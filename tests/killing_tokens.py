"""The making of a token file, killed, cut from power, and wanted by two at once, in processes of its own.

Run as a program (tests/test_cache.py does), as tests/killing.py, whose means it uses. It prints one line of JSON.

    python tests/killing_tokens.py kills FOLDER     SIGKILL at random instants
    python tests/killing_tokens.py power FOLDER     a power cut before every change of the disk
    python tests/killing_tokens.py two FOLDER       two processes that want the same token file
    python tests/killing_tokens.py orphans FOLDER   SIGKILL of a process whose workers are busy
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from killing import Disk, child, exit_code, lay_down, watch_disk
from toy_chat import CHATML, byte_level

from thinkling.core.progress import Silent
from thinkling.data import cache, tokens, workers
from thinkling.data.cache import FileRows, token_file
from thinkling.data.tokens import TokenFile

KILLS = 15
ROWS = 600
TOKENIZER = byte_level(CHATML)
WAIT_S = 20.0


def make(home: Path, file: Path, progress: Silent | None = None, workers: int = 0) -> TokenFile:
    """The token file, as a training would ask for it."""
    os.environ["THINKLING_HOME"] = str(home)
    how: dict[str, Any] = {"cutoff_len": 100, "too_long": "drop", "workers": workers, "progress": progress or Silent()}
    return token_file(FileRows(file), TOKENIZER, **how)


def kept(home: Path) -> list[Path]:
    """What a later process would look at."""
    return [folder for folder in (home / "tokens").glob("*") if not folder.name.startswith(".")]


def faults_of(home: Path, file: Path, wanted: str) -> list[str]:
    """What is wrong where the token file is made after whatever came before; empty where nothing is."""
    faults = [f"half a token file has a name: {wrong}" for folder in kept(home) if (wrong := tokens.fault(folder))]
    if make(home, file).digest != wanted:
        faults.append("it holds something else")
    faults += [
        f"{path.name} was left" for path in (home / "tokens").iterdir() if path.suffix in (".partial", ".replaced")
    ]
    return faults


def kills(folder: Path, file: Path) -> dict[str, Any]:
    """Ends it at random instants, as often as wanted, and makes it again each time it came to its end."""
    began = time.monotonic()
    wanted = make(folder / "whole", file).digest
    took, draw = time.monotonic() - began, random.Random()
    killed, faults = 0, []
    for n in range(KILLS):
        home = folder / f"home-{n // 3}"  # several attempts upon what the last one left
        process = child(lambda home=home: make(home, file).release())
        time.sleep(draw.uniform(0, took))
        os.kill(process, signal.SIGKILL)
        killed += exit_code(process) == -signal.SIGKILL
        faults += [f"a half one has a name: {wrong}" for path in kept(home) if (wrong := tokens.fault(path))]
        if n % 3 == 2:
            faults += faults_of(home, file, wanted)
    return {"kills": killed, "faults": faults}


def power(folder: Path, file: Path) -> dict[str, Any]:
    """From every state that a power cut could have left, the same token file comes about."""
    root = folder / "disk"
    root.mkdir()
    wanted = make(folder / "whole", file).digest
    states: list[dict[str, bytes | None]] = []
    disk, is_quiet = Disk(root), [False]

    def before(what: str, path: str) -> None:
        if not is_quiet[0]:
            is_quiet[0] = True
            states.extend(disk.states())
            if what == "sync":
                disk.synced(path)
            is_quiet[0] = False

    watch_disk(root, before)
    make(root / "home", file)
    before("end", str(root))
    is_quiet[0] = True
    distinct = {repr(sorted(state.items())): state for state in states}
    faults = []
    for number, state in enumerate(distinct.values()):
        lay_down(state, folder / str(number))
        faults += faults_of(folder / str(number) / "home", file, wanted)
    return {"states": len(distinct), "faults": faults}


def two(folder: Path, file: Path) -> dict[str, Any]:
    """Who makes it, what the other one says, and whether both read the same."""
    write = cache.write_rows

    def slowly(*arguments: Any, **more: Any) -> None:
        with open(folder / "made", "a") as made:
            made.write("once\n")
        time.sleep(0.5)
        write(*arguments, **more)

    cache.write_rows = slowly

    def want() -> None:
        progress = Silent()
        digest = make(folder / "home", file, progress).digest
        with open(folder / "said", "a") as said:
            said.write(json.dumps([digest, progress.notes]) + "\n")

    codes = [exit_code(process) for process in [child(want), child(want)]]
    said = [json.loads(line) for line in (folder / "said").read_text().splitlines()]
    return {
        "exit_codes": codes,
        "made": len((folder / "made").read_text().splitlines()),
        "digests": len({digest for digest, _ in said}),
        "waited": sum(any("waiting for another process" in note for note in notes) for _, notes in said),
    }


def orphans(folder: Path, file: Path) -> dict[str, Any]:
    """The workers that outlive a killed process by more than some seconds."""
    begin, read = workers._Worker.__init__, cache.stream_conversations

    def noted(worker: workers._Worker, hello: object) -> None:
        begin(worker, hello)
        with open(folder / "pids", "a") as pids:
            pids.write(f"{worker.process.pid}\n")

    def endless(*arguments: Any, **more: Any) -> Iterator[Any]:
        while True:
            yield from read(*arguments, **more)
            (folder / "busy").touch()

    workers._Worker.__init__, cache.stream_conversations = noted, endless
    process = child(lambda: make(folder / "home", file, workers=2).release())
    until(lambda: (folder / "busy").exists())
    os.kill(process, signal.SIGKILL)
    exit_code(process)
    pids = [int(line) for line in (folder / "pids").read_text().split()]
    until(lambda: not any(map(is_alive, pids)))
    return {"workers": len(pids), "alive": [pid for pid in pids if is_alive(pid)]}


def until(is_so: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not is_so() and time.monotonic() - began < WAIT_S:
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """A zombie is not: whoever has inherited it may be slow to ask after it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    mode, place = sys.argv[1], Path(sys.argv[2])
    cache.KEPT_FROM_BYTES = 0
    rows = place / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "What is {i} + 1?", "completion": "{i + 1}"}}\n' for i in range(ROWS)))
    found = {"kills": kills, "power": power, "two": two, "orphans": orphans}[mode](place, rows)
    print(json.dumps(found))
