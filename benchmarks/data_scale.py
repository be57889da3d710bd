"""What preparing data costs in memory and time, small against large: 50 GB must need no more memory than 50 MB.

    python benchmarks/data_scale.py [--megabytes 5 500] [--workers N]

For each size, a file of conversations is made up, and a process of its own does what a training does with it: tokenise
it into a token file, account for it, plan it, count the steps of an epoch, take its hash, and walk through batches of
an epoch. Printed are the most memory it held (`anonymous`: what it cannot give back; `resident`: with the mapped files
and libraries; both of this process, and of the tokenising processes together), seconds by phase, and the fill.
The tokenizer is that of the model, smollm2-135m unless another is named. While a size is measured it needs 2.4
times as much on disk, in TMPDIR.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

BATCH_TOKENS = 2048
CUTOFF_LEN = 1024
WALKED = 2000
"""Batches taken from the loader."""
WATCH_EVERY_S = 0.02


def make_up(path: Path, megabytes: float) -> None:
    """Questions with answers of very different lengths; the same bytes every time."""
    rng = random.Random(0)
    words = ["apples", "pears", "seven", "twelve", "boxes", "each", "holds", "then", "gives", "away", "left", "how"]
    written = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            answer = " ".join(rng.choices(words, k=int(rng.lognormvariate(4.2, 0.7)))) + f" {rng.random()}"
            question = " ".join(rng.choices(words, k=rng.randint(5, 40))) + "?"
            written += file.write(json.dumps({"prompt": question, "completion": answer}) + "\n")


class Watch(threading.Thread):
    """The most memory this process and its children have held, looked at every few hundredths of a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = self.resident = self.children = 0.0
        self.stop = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self.stop.wait(WATCH_EVERY_S):
            status = Path("/proc/self/status").read_text()
            kib = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.endswith("kB")}
            self.anonymous = max(self.anonymous, int(kib["RssAnon"]) / 1024)
            self.resident = max(self.resident, int(kib["VmRSS"]) / 1024)
            held = 0
            for child in me.children():
                try:
                    held += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.children = max(self.children, held / 2**20)


def measured(path: Path, model: str, workers: int | None) -> dict[str, float]:
    """Everything that a training does with its data, watched."""
    from thinkling.core.progress import Silent
    from thinkling.data.cache import FileRows, token_file
    from thinkling.data.loader import Loader
    from thinkling.data.mixture import Source
    from thinkling.data.prepare import judged
    from thinkling.model.names import resolve
    from thinkling.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(resolve(model, Silent()))
    watch, facts = Watch(), {}
    watch.start()

    def phase(name: str, began: float) -> float:
        facts[f"{name}_s"] = time.perf_counter() - began
        return time.perf_counter()

    def taken() -> Source:
        return Source(
            token_file(
                FileRows(path),
                tokenizer,
                cutoff_len=CUTOFF_LEN,
                too_long="drop",
                workers=workers,
                progress=Silent(),
            )
        )

    began = time.perf_counter()
    taken()
    began = phase("made", began)
    prepared = judged([taken()], CUTOFF_LEN)
    began = phase("taken_again", began)
    loader = Loader(prepared.rows, batch_tokens=BATCH_TOKENS)
    facts["steps"] = float(loader.n_batches(1))
    began = phase("counted", began)
    for _, _batch in zip(range(WALKED), loader, strict=False):
        pass
    phase(f"{WALKED}_batches", began)
    facts |= {"rows": float(len(prepared.rows)), "tokens": float(prepared.report.tokens), "fill": loader.fill()}
    watch.stop.set()
    watch.join()
    return {
        "anonymous_mib": watch.anonymous,
        "resident_mib": watch.resident,
        "workers_mib": watch.children,
        **facts,
    }


def main() -> int:
    """Print one line a size; 1 where the largest needs more than 1.5 times the memory of the smallest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[5.0, 500.0])
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one, options.model, options.workers)))
        return 0
    held = []
    from thinkling.core.progress import Silent
    from thinkling.model.names import resolve

    folder_of_model = str(resolve(options.model, Silent()))
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            make_up(path, megabytes)
            command = [sys.executable, __file__, "--one", str(path), "--model", folder_of_model]
            command += [] if options.workers is None else ["--workers", str(options.workers)]
            home = {**os.environ, "THINKLING_HOME": folder}
            done = subprocess.run(command, env=home, check=True, capture_output=True, text=True)
            facts = json.loads(done.stdout)
        held.append(facts["anonymous_mib"])
        print(f"{megabytes:g} MB  " + "  ".join(f"{name} {value:,.4g}" for name, value in facts.items()), flush=True)
    return int(max(held) > 1.5 * min(held))


if __name__ == "__main__":
    sys.exit(main())
