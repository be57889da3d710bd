"""What keeping a training costs: the stop for a checkpoint, the bytes written, the time of a resume.

    python benchmarks/checkpoints.py [--rounds 2] [--folder PLACE]

Full fine-tuning of SmolLM2-135M on random tokens with a checkpoint after every eighth step, each session a process of
its own. The first is left in the middle of a run, as a kill would leave it; the second goes on from its last
checkpoint. The time stood still is the phase "checkpoint" of the step's clock. The disk takes the checkpoint in while
the training goes on: what the next four steps lose by it is their time over that of the other four. A resume is from
the start of the process to the end of its first new step, and stands beside the same of a run that begins. In each
round the bytes of a checkpoint are also written and synced, and hashed, by nothing but a loop: what the machine could
do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SAVE_EVERY, SAVES = 8, 3
ROWS, ROW_TOKENS, BATCH_ROWS = 640, 256, 4
MINUTE_S = 60.0
BLOCK = 2**26
PARTS = (("median", statistics.median), ("least", min), ("most", max))


# in a process of its own ----------------------------------------------------------------------------------------------


class Enough(Exception):
    """The session has come as far as was asked for."""


def session(job: dict[str, Any]) -> dict[str, Any]:
    """Train in the run folder up to `until` steps, from wherever it stands; when the first step was done."""
    from train_scaling import made_rows

    from thinkling.core.progress import Silent
    from thinkling.core.run import Run
    from thinkling.data.loader import Loader
    from thinkling.engine.trainer import Speed, train
    from thinkling.losses import CROSS_ENTROPY
    from thinkling.stages._models import load_plain
    from thinkling.stages._sft_settings import Config, DataSpec

    first_done: list[float] = []

    class Clock(Silent):
        def advance(self, done: float, **facts: float) -> None:
            first_done.append(time.time())
            if done >= job["until"]:
                raise Enough

    run = Run.start(Path(job["run"]), {"stage": "checkpoints"})
    model, tokenizer, _ = load_plain(job["model"], Silent())
    config = Config(
        model=job["model"],
        data=(DataSpec(file="made here"),),
        batch_size=BATCH_ROWS,
        max_steps=1000,
        learning_rate=1e-5,
        save_steps=SAVE_EVERY,
        report_to=(),
    )
    loader = Loader(made_rows(ROWS, ROW_TOKENS, model.config.vocab_size), batch_rows=BATCH_ROWS)
    with contextlib.suppress(Enough):
        train(
            model,
            tokenizer,
            loader,
            CROSS_ENTROPY,
            config,
            steps=1000,
            run=run,
            progress=Clock(),
            speed=Speed(1e12),
            fingerprint={"data": loader.rows.digest},
        )
    return {"steps": run.metrics(), "first_done": first_done[0]}


# the rounds -----------------------------------------------------------------------------------------------------------


def in_a_process(job: dict[str, Any]) -> dict[str, Any]:
    """One session, with the seconds from its start to the end of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        told, wrote = Path(folder) / "job.json", Path(folder) / "out.json"
        told.write_text(json.dumps(job), encoding="utf-8")
        began = time.time()
        command = [sys.executable, __file__, "--child", str(told), str(wrote)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"a process ended with {done.returncode}:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(wrote.read_text(encoding="utf-8"))
    return {**found, "first_step_s": found["first_done"] - began}


def bytes_of(checkpoint: Path) -> int:
    """Of all its files."""
    return sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())


def costs(steps: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Seconds stood still for each checkpoint, and what the four steps after it lost, where eight follow in one
    process."""
    stops = {line["step"]: line["time/checkpoint_s"] for line in steps if line["step"] % SAVE_EVERY == 0}
    took = {
        line["step"]: line["time/step_s"] - line["time/checkpoint_s"]
        for line in steps
        if line["step"] not in (1, SAVE_EVERY * SAVES + 1)  # the first steps of a process write oneDNN's kernels
    }
    lost = []
    for step in stops:
        first, second = ([took[n] for n in range(low, low + 4) if n in took] for low in (step + 1, step + 5))
        if len(first) + len(second) == SAVE_EVERY:
            lost.append(sum(first) - sum(second))
    return [*stops.values()], lost


def plain_write(folder: Path, n: int) -> float:
    """Seconds to write `n` bytes into one file and sync it."""
    block = os.urandom(BLOCK)
    began = time.perf_counter()
    with open(folder / "plain", "wb") as file:
        for low in range(0, n, BLOCK):
            file.write(block[: n - low])
        file.flush()
        os.fsync(file.fileno())
    took = time.perf_counter() - began
    (folder / "plain").unlink()
    return took


def plain_hash(n: int) -> float:
    """Seconds for the digest of `n` bytes that are in memory."""
    from thinkling.core.files import new_digest

    block, digest = os.urandom(BLOCK), new_digest()
    began = time.perf_counter()
    for low in range(0, n, BLOCK):
        digest.update(block[: n - low])
    return time.perf_counter() - began


def one_round(model: Path, place: Path) -> dict[str, list[float]]:
    """A session that is left, one that goes on, and what the machine could do."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        run = Path(folder) / "run"
        job = {"model": str(model), "run": str(run)}
        in_a_process({**job, "until": SAVE_EVERY * SAVES + 1})
        size = bytes_of(run / "checkpoints" / f"step-{SAVE_EVERY * SAVES}")
        resumed = in_a_process({**job, "until": SAVE_EVERY * (SAVES + 1) + 1})
        begun = in_a_process({**job, "run": f"{folder}/another", "until": 1})
        stops, lost = costs(resumed["steps"])
        assert len(stops) == SAVES + 1, resumed["steps"]
        return {
            "training stands still for a checkpoint, s": stops,
            "the same bytes written and synced, s": [plain_write(Path(folder), size)],
            "the same bytes hashed, s": [plain_hash(size)],
            "start of the process to its first step, new run, s": [begun["first_step_s"]],
            "start of the process to its first new step, resumed, s": [resumed["first_step_s"]],
            "a resume costs more than a start, s": [resumed["first_step_s"] - begun["first_step_s"]],
            "a checkpoint, GB": [size / 1e9],
            "the steps after it lose, s": lost,
            "share of a run with one a minute, %": [
                100 * cost / (MINUTE_S + cost) for cost in map(sum, zip(stops, lost, strict=False))
            ],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; without it, where temporary files go")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        told, wrote = map(Path, options.child)
        found = session(json.loads(told.read_text(encoding="utf-8")))
        wrote.write_text(json.dumps(found), encoding="utf-8")
        return
    from train_scaling import place_of_base

    place = options.folder or Path(tempfile.gettempdir())
    place.mkdir(parents=True, exist_ok=True)
    model, seen = place_of_base(), {}
    for number in range(options.rounds):
        for name, values in one_round(model, place).items():
            seen.setdefault(name, []).extend(values)
        stops = seen["training stands still for a checkpoint, s"][-SAVES - 1 :]
        print(f"round {number + 1}: stands still {', '.join(f'{stop:.2f}' for stop in stops)} s", flush=True)
    print(f"\n{'':<56}" + "".join(f"{name:>9}" for name, _ in PARTS))
    for name, values in seen.items():
        print(f"{name:<56}" + "".join(f"{of(values):>9.2f}" for _, of in PARTS))


if __name__ == "__main__":
    main()
