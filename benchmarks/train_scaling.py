"""What a step of full fine-tuning costs, by rows, length of rows and size of the model; beside it what the plan says.

    python benchmarks/train_scaling.py [--rounds 2] [--steps 4] [--only 135M]

Every point is a process of its own, and all points take turns within a round. Rows are random tokens of exactly one
length, the second half of each learnt; 135M is SmolLM2-135M, 30M and 360M have its form (360M that of SmolLM2-360M's
published config) and random weights. A step is timed whole, the first of each process is left out. TFLOP/s are of the
FLOPs that are computed, MFU is against the products that occur (measures.peak_of_shapes), memory is the most the
process held while it trained. The plan is what `thinkling run` promises before it loads a weight.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinkling.data.prepare import PrepareReport
    from thinkling.data.tokens import TokenRow

BASE = "135M"
SHAPES = {
    "30M": {"width": 384, "n_layers": 8, "n_heads": 6, "n_kv_heads": 2, "ffn_width": 1024},
    "360M": {"width": 960, "n_layers": 32, "n_heads": 15, "n_kv_heads": 5, "ffn_width": 2560},
}


@dataclass(frozen=True)
class Point:
    """One way to train, and the series in which it stands."""

    series: str
    model: str
    rows: int
    length: int

    @property
    def name(self) -> str:
        return f"{self.model}, {self.rows} rows of {self.length}"


POINTS = (
    Point("rows", BASE, 2, 128),
    Point("rows", BASE, 8, 128),
    Point("rows", BASE, 32, 128),
    Point("length", BASE, 8, 64),
    Point("length", BASE, 8, 256),
    Point("length, as many tokens", BASE, 32, 64),
    Point("length, as many tokens", BASE, 2, 1024),
    Point("model", "30M", 8, 128),
    Point("model", "360M", 8, 128),
)


# in a process of its own ----------------------------------------------------------------------------------------------


class Enough(Exception):
    """As many steps as were asked for are done; nothing is saved."""


def made_rows(n: int, length: int, vocab: int) -> list[TokenRow]:
    """Rows of random tokens, the second half of each learnt."""
    from thinkling.data.tokens import TokenRow

    draw = random.Random(0)
    weights = [0.0] * (length // 2) + [1.0] * (length - length // 2)
    return [TokenRow([draw.randrange(vocab) for _ in range(length)], weights, f"row {i}") for i in range(n)]


def account_of(rows: list[TokenRow], length: int) -> PrepareReport:
    """The account that `prepare` would give of them."""
    from thinkling.data.prepare import PrepareReport

    n, supervised = len(rows), sum(row.n_supervised for row in rows)
    nothing = dict.fromkeys(("dropped", "cut", "answers_cut", "blank", "nothing_learnt", "split", "unread"), 0)
    counted = {"tokens": n * length, "supervised_tokens": supervised, "longest": length, "cutoff_len": length}
    return PrepareReport(rows=n, kept=n, **nothing, **counted)


def trained(job: dict[str, Any]) -> dict[str, Any]:
    """Train as the stage sft does, for `steps` steps; each step's line of metrics, the peak and the plan."""
    import torch

    from thinkling.core.device import compute_dtype, default_device, measure_peak
    from thinkling.core.progress import Silent
    from thinkling.core.run import Run
    from thinkling.data.loader import Loader
    from thinkling.data.prepare import Prepared
    from thinkling.engine.coverage import coverage
    from thinkling.engine.measures import peak_memory_gib
    from thinkling.engine.trainer import Speed, train
    from thinkling.losses import CROSS_ENTROPY
    from thinkling.model.folder import read_config
    from thinkling.stages._models import load_plain
    from thinkling.stages._sft_plan import make_plan, peak_of_own_products
    from thinkling.stages._sft_settings import Config, DataSpec

    class Clock(Silent):
        def advance(self, done: float, **facts: float) -> None:
            if done >= job["steps"]:
                raise Enough

    steps = job["steps"] + 1  # never reached: a training saves at its end
    config = Config(
        model=job["folder"],
        data=(DataSpec(file="made here"),),
        batch_size=job["rows"],
        max_steps=steps,
        cutoff_len=job["length"],
        learning_rate=1e-5,
        update_ratio_steps=0,
        report_to=(),
    )
    shape, device = read_config(Path(job["folder"])), default_device()
    rows = made_rows(steps * job["rows"], job["length"], shape.vocab_size)
    loader = Loader(rows, batch_rows=job["rows"])
    prepared = Prepared(loader.rows, account_of(rows, job["length"]))
    found = coverage(shape, config.tuning)
    square = measure_peak(compute_dtype(device.type), 0.5, device.type)
    plan = make_plan(config, prepared, shape, loader, steps, square, found)
    model, tokenizer, _ = load_plain(job["folder"], Silent())
    peak = peak_of_own_products(model, config, plan)
    run = Run.start(Path(job["run"]), {})
    with contextlib.suppress(Enough):
        train(
            model,
            tokenizer,
            loader,
            CROSS_ENTROPY,
            config,
            steps=steps,
            run=run,
            progress=Clock(),
            speed=Speed(peak, found.work),
            fingerprint={},
        )
    return {
        "steps": run.metrics(),
        "peak_flops": peak,
        "memory_gib": peak_memory_gib(device),
        "planned_gib": plan["memory_gib"]["peak"],
        "planned_s": plan["minutes"] * 60 / steps,
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": shape.n_parameters,
    }


def build(job: dict[str, Any]) -> dict[str, Any]:
    """A model of random weights with SmolLM2's tokenizer, as a folder."""
    import dataclasses

    import torch

    from thinkling.core.device import compute_dtype
    from thinkling.model.decoder import Decoder
    from thinkling.model.folder import read_config, save_folder
    from thinkling.tokenizer.tokenizer import Tokenizer

    base = Path(job["base"])
    torch.manual_seed(0)
    model = Decoder(dataclasses.replace(read_config(base), head_width=64, tied_embeddings=True, **job["shape"]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.02)  # torch's own embeddings of std 1 give logits that mean nothing
    save_folder(model.to(compute_dtype()), Tokenizer.load(base), Path(job["folder"]))
    return {}


def place_of_base() -> Path:
    """SmolLM2-135M's folder, fetched where it is not here yet."""
    from thinkling.core.progress import Silent
    from thinkling.model.names import resolve

    return resolve("smollm2-135m", Silent())


# the rounds -----------------------------------------------------------------------------------------------------------


def in_a_process(work: str, job: dict[str, Any]) -> dict[str, Any]:
    """What `work`, a function of this file, gives in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        told, wrote = Path(folder) / "job.json", Path(folder) / "out.json"
        told.write_text(json.dumps({"run": f"{folder}/run", **job}), encoding="utf-8")
        command = [sys.executable, __file__, "--child", work, str(told), str(wrote)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"a process ended with {done.returncode}:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(wrote.read_text(encoding="utf-8"))
    return found


def step_seconds(found: dict[str, Any]) -> list[float]:
    """Of each step but the first: data, forward, backward, update and all else."""
    return [line["time/step_s"] for line in found["steps"][1:]]


def tflops(found: dict[str, Any]) -> list[float]:
    """Of each step but the first, over the whole step: a line of metrics has it over forward, backward and update."""
    phases = ("forward", "backward", "optimizer")
    return [
        line["flops/tera_per_s"] * sum(line[f"time/{phase}_s"] for phase in phases) / line["time/step_s"]
        for line in found["steps"][1:]
    ]


def line_of(point: Point, rounds: list[dict[str, Any]]) -> str:
    """Medians over all steps of all rounds, with the range of seconds."""
    median = statistics.median
    seconds = [s for found in rounds for s in step_seconds(found)]
    speed = median(t for found in rounds for t in tflops(found))
    mfu = median(t * 1e12 / found["peak_flops"] for found in rounds for t in tflops(found))
    tokens, took = point.rows * point.length, median(seconds)
    held, planned_gib = median(f["memory_gib"] for f in rounds), median(f["planned_gib"] for f in rounds)
    planned_s = median(f["planned_s"] for f in rounds)
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    return (
        f"{point.series:<23} {point.name:<23} {tokens:>6} {took:>7.2f} {spread:>15}"
        f" {tokens / took:>8.0f} {speed:>7.2f} {mfu:>5.0%} {held:>7.2f} {planned_gib:>7.2f} {held / planned_gib:>6.2f}"
        f" {planned_s:>9.2f} {took / planned_s:>6.2f}"
    )


HEAD = (
    f"{'series':<23} {'point':<23} {'tokens':>6} {'s/step':>7} {'range':>15} {'tokens/s':>8} {'TFLOP/s':>7} {'MFU':>5}"
    f" {'GiB':>7} {'planned':>7} {'ratio':>6} {'planned s':>9} {'ratio':>6}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="of each process, the first of which is not counted")
    parser.add_argument("--only", default="", help="points with this in their name, such as 135M")
    parser.add_argument("--out", type=Path, help="write all that was measured here, as JSON")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work, told, wrote = options.child
        job = json.loads(Path(told).read_text(encoding="utf-8"))
        found = {"trained": trained, "build": build}[work](job)
        Path(wrote).write_text(json.dumps(found), encoding="utf-8")
        return
    if options.steps < 2:
        parser.error("--steps: at least 2, because the first is not counted")
    points = [point for point in POINTS if options.only in point.name]
    measured: dict[Point, list[dict[str, Any]]] = {point: [] for point in points}
    with tempfile.TemporaryDirectory() as folder:
        folders = {BASE: str(place_of_base())}
        for name in {point.model for point in points} - {BASE}:
            folders[name] = f"{folder}/{name}"
            in_a_process("build", {"base": folders[BASE], "shape": SHAPES[name], "folder": folders[name]})
        for number in range(options.rounds):
            for point in points:
                job = {"folder": folders[point.model], "rows": point.rows, "length": point.length}
                measured[point].append(in_a_process("trained", {**job, "steps": options.steps}))
                took = statistics.median(step_seconds(measured[point][-1]))
                print(f"round {number + 1}: {point.name:<23} {took:7.2f} s a step", flush=True)
    if options.out:
        options.out.write_text(json.dumps({p.name: found for p, found in measured.items()}), encoding="utf-8")
    told_once = next(iter(measured.values()))[0]
    print(f"\nfull fine-tuning, {told_once['dtype']}, {told_once['threads']} threads\n{HEAD}")
    for point, rounds in measured.items():
        print(line_of(point, rounds))


if __name__ == "__main__":
    main()
