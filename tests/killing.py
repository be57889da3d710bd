"""A tiny training that is killed, cut from power and starved of disk, over and over, in processes of its own.

Run as a program (tests/test_unkillable.py does): it imports torch once and forks a child for each life of a run, so
that a life costs tens of milliseconds. It prints one line of JSON with what it saw.

    python tests/killing.py kills FOLDER      SIGKILL at random instants, always resumed
    python tests/killing.py power FOLDER      a power cut before every change of the disk
    python tests/killing.py full FOLDER       a disk that is full from every change on
    python tests/killing.py power-late FOLDER   both again, where the training goes on and the disk has a checkpoint
    python tests/killing.py full-late FOLDER    only when the next one is due
    python tests/killing.py two FOLDER        two processes for one run
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from byte_tokenizer import write_byte_tokenizer

from thinkling.core.errors import RunError
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.data.loader import Loader
from thinkling.data.prepare import TokenRow
from thinkling.engine import checkpoint, keeping
from thinkling.engine.settings import TrainerConfig
from thinkling.engine.trainer import Speed, train
from thinkling.losses import CROSS_ENTROPY
from thinkling.model import weights
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder
from thinkling.tokenizer.tokenizer import Tokenizer

KILLS = 50
STEPS_A_RUN = 20
STEPS = 3
FULL, ENDED_SHORT = 3, 4
OF_THE_CLOCK = ("time/", "tokens/per_s", "mfu", "flops/", "memory/")
"""Metrics that no two runs have in common: how long a step took, and what the process held."""


# the training under test ----------------------------------------------------------------------------------------------


def tiny_model() -> Decoder:
    """About 7,000 parameters; the same ones each time."""
    torch.manual_seed(0)
    sizes = {"width": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "head_width": 8, "ffn_width": 24}
    return Decoder(ModelConfig(family="llama", vocab_size=272, max_positions=64, tied_embeddings=True, **sizes))


def rows() -> list[TokenRow]:
    draw = random.Random(0)
    lengths = [draw.randint(3, 20) for _ in range(40)]
    return [
        TokenRow([draw.randrange(256) for _ in range(n)], [0.0] + [1.0] * (n - 1), f"row {i}")
        for i, n in enumerate(lengths)
    ]


class Witness(Silent):
    """Writes down which step a life went on from."""

    def __init__(self, said: Path) -> None:
        super().__init__()
        self.said = said

    def note(self, text: str) -> None:
        with open(self.said, "a", encoding="utf-8") as file:
            file.write(text + "\n")


def live(tokenizer: Tokenizer, folder: Path, steps: int, *, keep: int = 2, said: Path | None = None) -> None:
    """One life of the run: train on, from wherever it stands, with a checkpoint and a validation at every step."""
    config = TrainerConfig(learning_rate=1e-2, save_steps=1, save_total_limit=keep, eval_steps=2)
    run = Run.start(folder, {"stage": "killed"})
    try:
        train(
            tiny_model(),
            tokenizer,
            Loader(rows(), batch_tokens=60, seed=1),
            CROSS_ENTROPY,
            config,
            steps=steps,
            run=run,
            progress=Witness(said) if said else Silent(),
            speed=Speed(1e12),
            fingerprint={"data": "the same"},
            validate=lambda step: {"accuracy/validation": step / 100},
        )
    finally:
        run.close()


def outcome(folder: Path, step: int) -> dict[str, Any]:
    """What has to be equal bit for bit: weights, optimizer state, cursor, and metrics apart from the clock's."""
    run = Run(folder)
    path = run.checkpoint_dir(step)
    state = json.loads((path / "state.json").read_text())
    files = [*sorted((path / "model").iterdir()), *sorted((path / "optimizer").iterdir())]
    metrics = [json.dumps({k: v for k, v in line.items() if not k.startswith(OF_THE_CLOCK)}) for line in run.metrics()]
    return {
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "cursor": state["cursor"],
        "tokens": state["tokens"],
        "metrics": metrics,
    }


def child(work: Callable[[], None]) -> int:
    """Fork, work, leave by force: no clean-up runs that a killed process would not run. Returns the process id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        work()
        status = 0
    except RunError as error:
        status = FULL if "no space left" in error.what else ENDED_SHORT
        print(error, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 - the parent is told by the exit code
        print(repr(error), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def exit_code(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


# kill -9 --------------------------------------------------------------------------------------------------------------


def kills(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Runs whose every life is ended at a random instant, until so many were killed; each is then lived to its end."""
    began = time.monotonic()
    assert exit_code(child(lambda: live(tokenizer, folder / "whole", STEPS_A_RUN))) == 0
    took = time.monotonic() - began
    wanted, draw = outcome(folder / "whole", STEPS_A_RUN), random.Random()
    killed, runs, equal = 0, 0, True
    while killed < KILLS:
        here = folder / f"run-{runs}"
        while True:
            process = child(lambda here=here: live(tokenizer, here, STEPS_A_RUN))
            # A quarter of a run at most: some lives end before their first step, others after several.
            time.sleep(draw.uniform(0, took / 4))
            os.kill(process, signal.SIGKILL)
            code = exit_code(process)
            assert code in (0, -signal.SIGKILL), code
            if code == 0:
                break
            killed += 1
        runs += 1
        equal = equal and outcome(here, STEPS_A_RUN) == wanted
    return {"kills": killed, "runs": runs, "equal": equal, "steps": len(wanted["metrics"])}


# every change of the disk ---------------------------------------------------------------------------------------------

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
BEFORE = Callable[[str, str], None]
"""Told (what, path) before each change of a file under the folder watched."""


def watch_disk(root: Path, before: BEFORE, *, late: bool = False) -> None:
    """Call `before` ahead of every change of the disk below `root`; for the rest of this process's life.

    Args:
        late: A checkpoint is waited for when the next one is due, otherwise at once.
    """

    def inside(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(str(root))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and inside(arguments[0]) and arguments[2] & WRITES:
            before("open", os.path.abspath(arguments[0]))
        elif event in CHANGES and inside(arguments[0]):
            before(event.removeprefix("os."), os.path.abspath(arguments[0]))

    really_sync, really_save, really_hashed = os.fsync, weights.save_file, weights.write_hashed

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if inside(path):
            before("sync", path)
        really_sync(descriptor)

    def save_file(tensors: Any, file: Path, **more: Any) -> None:
        before("save", os.path.abspath(file))  # written by the library's Rust, unseen from here
        really_save(tensors, file, **more)

    def write_hashed(file: Path, pieces: Any) -> str:
        before("save", os.path.abspath(file))
        return really_hashed(file, pieces)

    os.fsync, weights.save_file, weights.write_hashed = fsync, save_file, write_hashed
    # So that the changes of one life can be counted. The kills meet real threads.
    checkpoint.ThreadPoolExecutor, keeping.ThreadPoolExecutor = InTurn, Late if late else InTurn
    sys.addaudithook(audit)


class InTurn(ThreadPoolExecutor):
    """An executor without threads, that does each thing at once."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*arguments))
        return future


class Late(ThreadPoolExecutor):
    """An executor without threads, that does each thing when its result is asked for."""

    class Promise(Future[Any]):
        def __init__(self, work: Callable[[], Any]) -> None:
            super().__init__()
            self.work = work

        def result(self, timeout: float | None = None) -> Any:
            return self.work()

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self.Promise(functools.partial(work, *arguments))


class Disk:
    """What a power cut may leave: of each folder and file, what it is now, or what it was when it was last synced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[int, int] = {}  # inode number now in use -> an identity that is never used again
        self.contents: dict[int, bytes] = {}  # of files, as last synced
        self.entries: dict[int, dict[str, int]] = {}  # of folders, as last synced
        self.folders: set[int] = set()
        self.fresh = itertools.count()

    def look(self) -> dict[str, int]:
        """Path to identity of everything there is now."""
        found = {str(self.root): os.stat(self.root).st_ino}
        for base, inner, files in os.walk(self.root):
            found |= {f"{base}/{name}": os.lstat(f"{base}/{name}").st_ino for name in (*inner, *files)}
        # A number that nothing bears any more may be given to a new file.
        self.names = {ino: self.names.get(ino, next(self.fresh)) for ino in found.values()}
        now = {path: self.names[ino] for path, ino in found.items()}
        self.folders |= {identity for path, identity in now.items() if os.path.isdir(path)}
        return now

    def synced(self, path: str) -> None:
        """The disk has confirmed what this file or folder holds now."""
        now = self.look()
        if path not in now:
            return
        if os.path.isdir(path):
            self.entries[now[path]] = {name: now[f"{path}/{name}"] for name in os.listdir(path)}
        else:
            self.contents[now[path]] = Path(path).read_bytes()

    def states(self) -> Iterator[dict[str, bytes | None]]:
        """Relative path to content (None: a folder): all as it is, only what was synced, all names
        with synced contents."""
        now = self.look()
        as_is = {
            os.path.relpath(path, self.root): None if os.path.isdir(path) else Path(path).read_bytes()
            for path in now
            if path != str(self.root)
        }
        yield as_is
        yield dict(self._durable(now[str(self.root)], ""))
        yield {
            name: None if content is None else self.contents.get(now[f"{self.root}/{name}"], b"")
            for name, content in as_is.items()
        }

    def _durable(self, folder: int, prefix: str) -> Iterator[tuple[str, bytes | None]]:
        for name, identity in self.entries.get(folder, {}).items():
            if identity in self.folders:
                yield prefix + name, None
                yield from self._durable(identity, f"{prefix}{name}/")
            else:
                yield prefix + name, self.contents.get(identity, b"")


def lay_down(state: dict[str, bytes | None], folder: Path) -> None:
    """Make a folder that holds this state."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in sorted(state.items()):
        if content is None:
            (folder / name).mkdir(exist_ok=True)
        else:
            (folder / name).write_bytes(content)


class Fell(Exception):
    """The process of a life fell over."""


def two_lives(
    tokenizer: Tokenizer, folder: Path, heard: Callable[[int], None] = lambda step: None, lives: int = 2
) -> None:
    """Train to step 2, fall over between its checkpoint and its record, go on to the end. `heard`: of each saving."""
    really_begin, first = checkpoint.begin, [True]

    def begin(run: Run, step: int, *arguments: Any, **more: Any) -> Callable[[], None]:
        finish = really_begin(run, step, *arguments, **more)

        def then() -> None:
            finish()
            heard(step)
            if first[0] and step == 2:
                raise Fell

        return then

    checkpoint.begin = begin
    try:
        live(tokenizer, folder, STEPS, keep=1)
    except Fell:
        first[0] = False
        if lives == 2:
            live(tokenizer, folder, STEPS, keep=1)


def record(tokenizer: Tokenizer, root: Path, states: Path, late: bool) -> None:
    """Live through it all, and write down every state that a power cut could have left, each distinct one once."""
    disk, seen, saved, changes = Disk(root), set(), [0], [0]
    states.mkdir()

    def remember(what: str, path: str) -> None:
        changes[0] += 1
        for kind, state in zip(("kill", "synced", "emptied"), disk.states(), strict=True):
            digest = hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest()
            # The same state is worth less, the more has been promised since: the latest promise counts.
            facts = {"change": changes[0], "what": what, "path": path, "kind": kind, "saved": saved[0]}
            (states / f"{digest}.json").write_text(json.dumps(facts))
            if digest not in seen:
                seen.add(digest)
                lay_down(state, states / digest)
        if what == "sync":
            disk.synced(path)

    quiet = [False]

    def before(what: str, path: str) -> None:
        if not quiet[0]:
            quiet[0] = True
            remember(what, path)
            quiet[0] = False

    watch_disk(root, before, late=late)
    two_lives(tokenizer, root / "run", lambda step: saved.__setitem__(0, step))
    before("end", str(root))
    (states / "changes").write_text(str(changes[0]))


def power(tokenizer: Tokenizer, folder: Path, late: bool = False) -> dict[str, Any]:
    """Resume from every state that a power cut could have left; all have to come to the same end."""
    (folder / "disk").mkdir()
    assert exit_code(child(lambda: live(tokenizer, folder / "whole", STEPS, keep=1))) == 0
    wanted = outcome(folder / "whole", STEPS)
    assert exit_code(child(lambda: record(tokenizer, folder / "disk", folder / "states", late))) == 0
    faults: list[str] = []
    found = sorted(path for path in (folder / "states").iterdir() if path.is_dir())
    for state in found:
        facts = json.loads(state.with_suffix(".json").read_text())
        fault = _resumed(tokenizer, state, facts["saved"], wanted)
        faults += [f"{facts}: {fault}"] if fault else []
    changes = int((folder / "states" / "changes").read_text())
    return {"changes": changes, "states": len(found), "faults": faults}


def _resumed(tokenizer: Tokenizer, state: Path, saved: int, wanted: dict[str, Any]) -> str:
    """What is wrong with the run that went on from a state; empty where nothing is."""
    said = state / "said"
    code = exit_code(child(lambda: live(tokenizer, state / "run", STEPS, keep=1, said=said)))
    if code:
        return f"it ended with {code}"
    notes = said.read_text() if said.exists() else ""
    if saved and not any(f"going on from step {step} " in notes for step in range(saved, STEPS + 1)):
        return f"step {saved} was saved, and is lost: {notes!r}"
    came = outcome(state / "run", STEPS)
    return "" if came == wanted else ", ".join(key for key in wanted if came[key] != wanted[key]) + " differ"


def full(tokenizer: Tokenizer, folder: Path, late: bool = False) -> dict[str, Any]:
    """A disk that takes nothing more from the k-th change on; then there is room, and the run goes on.

    For every k of a life that goes on from step 2, writes a checkpoint and removes one.
    """
    assert exit_code(child(lambda: live(tokenizer, folder / "whole", STEPS, keep=1))) == 0
    wanted = outcome(folder / "whole", STEPS)
    assert exit_code(child(lambda: two_lives(tokenizer, folder / "begun" / "run", lives=1))) == 0
    faults: list[str] = []
    k = 0
    while True:
        k += 1
        root = folder / f"full-{k}"
        shutil.copytree(folder / "begun", root)
        code = exit_code(child(lambda root=root, k=k: _starved(tokenizer, root, k, late)))
        if code == 0:
            return {"changes": k - 1, "faults": faults}
        what = (root / "refused").read_text() if (root / "refused").exists() else "?"
        if code != FULL:
            faults.append(f"change {k} ({what}): it ended with {code}, and not by saying that there is no space")
        if any(name.endswith(".partial") for _, inner, files in os.walk(root) for name in (*inner, *files)):
            faults.append(f"change {k} ({what}): half a file was left")
        fault = _resumed(tokenizer, root, 2, wanted)
        faults += [f"change {k} ({what}): {fault}"] if fault else []
        shutil.rmtree(root)


def _starved(tokenizer: Tokenizer, root: Path, k: int, late: bool) -> None:
    count, quiet = [0], [False]

    def before(what: str, path: str) -> None:
        if quiet[0] or what in ("remove", "rmdir", "truncate"):  # these need no room
            return
        count[0] += 1
        if count[0] < k:
            return
        quiet[0] = True
        if count[0] == k:
            (root / "refused").write_text(f"{what} {path}")
        if what == "save":
            Path(path).write_bytes(b"half of it")
        quiet[0] = False
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    watch_disk(root / "run", before, late=late)
    live(tokenizer, root / "run", STEPS, keep=1)


def two(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Two processes that want the same run at the same time."""
    both = [child(lambda: live(tokenizer, folder / "run", STEPS_A_RUN)) for _ in range(2)]
    return {"exit_codes": sorted(map(exit_code, both))}


if __name__ == "__main__":
    mode, place = sys.argv[1], Path(sys.argv[2])
    write_byte_tokenizer(place / "tokenizer")
    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(place / "tokenizer")
    # Lived once here, so that no child has to import what torch loads with its first update (two seconds).
    live(tokenizer, place / "warm", 2)
    modes = {"kills": kills, "power": power, "full": full, "two": two}
    modes |= {f"{mode}-late": functools.partial(modes[mode], late=True) for mode in ("power", "full")}
    found = modes[mode](tokenizer, place)
    print(json.dumps(found))
