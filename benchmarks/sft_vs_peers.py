"""Fine-tuning beside what people use: tokens/s, memory and loss of ours, TRL and a plain transformers loop, in turn.

    python benchmarks/sft_vs_peers.py --data gsm8k_train.jsonl --peer-python PEER/bin/python [--rounds 3] [--rows 160]

Every measurement is a process of its own; the systems take turns within a round. All train the same model on the same
rows in the same order, eight a step, at one learning rate. Real tokens are those of the rows, no padding counted;
tokens/s leaves the first step out; memory is the most the process ever held. The peers' environment needs torch,
transformers, datasets, trl and peft. This file runs there too, as the worker of one measurement.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}
MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PAD = 2
"""Any token: its attention mask and its label are 0 and -100."""


# workers: each trains once and returns the end of each step, its loss and its real tokens -----------------------------


def ours(job: dict[str, Any]) -> dict[str, list[float]]:
    from thinkling.core.progress import Silent
    from thinkling.core.run import Run
    from thinkling.stages import sft

    times: list[float] = []

    class Clock(Silent):
        def advance(self, done: int, **facts: float) -> None:
            if "loss/train" in facts:
                times.append(time.perf_counter())

    settings = settings_of(job)
    run = Run.start(Path(job["folder"]) / "run", settings)
    sft.run(sft.Config(**settings), run, Clock(), {})
    lines = run.metrics()
    return {
        "times": times,
        "losses": [line["loss/train"] for line in lines],
        "tokens": [line["tokens/step"] for line in lines],
    }


def settings_of(job: dict[str, Any]) -> dict[str, Any]:
    """Of our stage."""
    return {
        "model": job["model"],
        "data": [{"file": job["messages"], "format": "messages"}],
        "batch_size": job["batch"],
        "learning_rate": job["rate"],
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "adam_beta2": 0.999,
        "generate_rows": 0,
        "validation_rows": 0,
        "seed": 0,
        **({"tuning": {"method": "lora", "rank": LORA["r"], "alpha": LORA["lora_alpha"]}} if job["lora"] else {}),
        **job["settings"],
    }


def plain(job: dict[str, Any]) -> dict[str, list[float]]:
    """What one writes by hand: padded rows, AdamW, clipping; fp32 weights under autocast, or bf16 weights."""
    import torch
    from transformers import AutoModelForCausalLM

    rows = json.loads(Path(job["rows"]).read_text())
    dtype = getattr(torch, job["dtype"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=job["rate"], weight_decay=0.0, fused=True)
    found: dict[str, list[float]] = {"times": [], "losses": [], "tokens": tokens_of(rows, job["batch"])}
    for low in range(0, len(rows), job["batch"]):
        some = rows[low : low + job["batch"]]
        longest = max(len(row["tokens"]) for row in some)
        padding = [longest - len(row["tokens"]) for row in some]
        ids = torch.tensor([row["tokens"] + [PAD] * n for row, n in zip(some, padding, strict=True)])
        labels = torch.tensor([labels_of(row) + [-100] * n for row, n in zip(some, padding, strict=True)])
        mask = torch.tensor([[1] * len(row["tokens"]) + [0] * n for row, n in zip(some, padding, strict=True)])
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found["times"].append(time.perf_counter())
        found["losses"].append(float(loss))
    return found


def trl(job: dict[str, Any]) -> dict[str, list[float]]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = json.loads(Path(job["rows"]).read_text())
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    masks = [[int(weight > 0) for weight in row["weights"]] for row in rows]
    data = [{"input_ids": row["tokens"], "completion_mask": mask} for row, mask in zip(rows, masks, strict=True)]
    config = SFTConfig(
        output_dir=job["folder"] + "/trl",
        per_device_train_batch_size=job["batch"],
        num_train_epochs=1,
        learning_rate=job["rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=job["dtype"] == "float32",
        max_length=None,
        gradient_checkpointing=False,
        completion_only_loss=True,
        disable_tqdm=True,
        seed=0,
        **job["settings"],
    )
    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])),
        args=config,
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        callbacks=[Clock()],
        peft_config=LoraConfig(**LORA, target_modules=MATRICES, task_type="CAUSAL_LM") if job["lora"] else None,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"times": times, "losses": losses, "tokens": tokens_of(rows, job["batch"])}


def labels_of(row: dict[str, Any]) -> list[int]:
    return [token if weight else -100 for token, weight in zip(row["tokens"], row["weights"], strict=True)]


def tokens_of(rows: list[dict[str, Any]], batch: int) -> list[float]:
    """Real tokens of each step."""
    return [sum(len(row["tokens"]) for row in rows[low : low + batch]) for low in range(0, len(rows), batch)]


WORKERS = {"ours": ours, "plain": plain, "trl": trl}


# the measurement ----------------------------------------------------------------------------------------------------


def prepare(data: Path, n: int, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The rows as all shall see them, in the order that ours trains on: two files and the model's folder."""
    from thinkling.core.progress import Silent
    from thinkling.model.names import resolve
    from thinkling.stages import sft

    messages = folder / "rows.jsonl"
    with messages.open("w", encoding="utf-8") as file:
        for line in data.read_text(encoding="utf-8").splitlines()[:n]:
            given = json.loads(line)
            said = [("user", given["question"]), ("assistant", given["answer"])]
            file.write(json.dumps({"messages": [{"role": r, "content": c} for r, c in said]}) + "\n")
    full = {**job, "model": str(resolve("smollm2-135m", Silent())), "messages": str(messages)}
    ready = sft.make_ready(sft.Config(**settings_of(full)), full["model"], Silent())
    ordered = []
    for batch, _ in zip(ready.loader, range(ready.steps), strict=False):
        for low, high in itertools.pairwise(batch.starts.tolist()):
            row = {"tokens": batch.tokens[low:high].tolist(), "weights": batch.loss_weights[low:high].tolist()}
            ordered.append(row)
    (folder / "rows.json").write_text(json.dumps(ordered), encoding="utf-8")
    return {**full, "rows": str(folder / "rows.json")}


def measured(python: str, worker: str, job: dict[str, Any]) -> dict[str, Any]:
    """One process: what it found, tokens/s without the first step, and its peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        told, wrote, log = (Path(folder) / name for name in ("job.json", "out.json", "log"))
        told.write_text(json.dumps({**job, "folder": folder}), encoding="utf-8")
        with log.open("w", encoding="utf-8") as file:
            command = [python, __file__, "--worker", worker, str(told), str(wrote)]
            process = subprocess.Popen(command, stdout=file, stderr=file)
            _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise SystemExit(f"{worker} ended with {status}:\n{log.read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(wrote.read_text(encoding="utf-8"))
    seconds = found["times"][-1] - found["times"][0]
    return {**found, "tokens_per_s": sum(found["tokens"][1:]) / seconds, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def systems_of(options: argparse.Namespace, job: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """name -> (interpreter, worker, job)."""
    peer = options.peer_python or sys.executable
    systems = {"thinkling": (sys.executable, "ours", job)}
    if options.compiled:
        systems["thinkling, compiled"] = (sys.executable, "ours", {**job, "settings": {"torch_compile": True}})
    if options.peer_python:
        systems["trl"] = (peer, "trl", job)
    if options.peer_python and options.bf16:
        systems["trl, bf16 weights"] = (peer, "trl", {**job, "dtype": "bfloat16"})
    if options.peer_python and options.padding_free:
        systems["trl, padding-free"] = (peer, "trl", {**job, "settings": {"padding_free": True}})
    if not options.lora:
        systems["plain loop"] = (peer, "plain", job)
    if not options.lora and options.bf16:
        systems["plain, bf16 weights"] = (peer, "plain", {**job, "dtype": "bfloat16"})
    return systems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="JSON lines with question and answer, such as GSM8K's")
    parser.add_argument("--peer-python", help="an interpreter with trl and peft; without it, TRL is left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8, help="rows a step")
    parser.add_argument("--lora", action="store_true", help="LoRA of rank 16 on all seven matrices, ours and TRL's")
    parser.add_argument(
        "--bf16", action="store_true", help="peers with bf16 weights too: no fp32 masters, half the bytes"
    )
    parser.add_argument("--compiled", action="store_true", help="ours with torch_compile too")
    parser.add_argument("--padding-free", action="store_true", help="TRL without padding too")
    parser.add_argument("--out", type=Path, help="write all losses and times here, as JSON")
    parser.add_argument("--worker", nargs=3, metavar=("SYSTEM", "JOB", "OUT"), help="one measurement; used inside")
    options = parser.parse_args()
    if options.worker:
        system, told, wrote = options.worker
        Path(wrote).write_text(json.dumps(WORKERS[system](json.loads(Path(told).read_text()))), encoding="utf-8")
        return
    if options.data is None:
        parser.error("--data is needed: JSON lines with question and answer")
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "batch": options.batch,
            "rate": 1e-4 if options.lora else 1e-5,
            "lora": options.lora,
            "dtype": "float32",
            "settings": {},
        }
        job = prepare(options.data, options.rows, job, Path(folder))
        for number in range(options.rounds):
            for name, (python, worker, one) in systems_of(options, job).items():
                last = measured(python, worker, one)
                found.setdefault(name, []).append(last)
                figures = f"{last['tokens_per_s']:7.0f} tokens/s, {last['peak_gb']:5.1f} GB"
                print(f"round {number + 1}: {name:<21} {figures}", flush=True)
            if options.out:
                options.out.write_text(json.dumps(found), encoding="utf-8")
    report(found)


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Medians and ranges; ratios within a round, because the machine's speed drifts between rounds."""
    mine = found["thinkling"]
    for name, rounds in found.items():
        speeds = [one["tokens_per_s"] for one in rounds]
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(mine, rounds, strict=True)]
        memory = statistics.median(one["peak_gb"] for one in rounds)
        losses = rounds[0]["losses"]
        gaps = [abs(a - b) for a, b in zip(mine[0]["losses"], losses, strict=True)]
        print(
            f"{name:<21} {statistics.median(speeds):6.0f} tokens/s ({min(speeds):.0f} to {max(speeds):.0f}), "
            f"{memory:.1f} GB; thinkling is {statistics.median(ratios):.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f}); loss {losses[0]:.3f} to {losses[-1]:.3f}, "
            f"a step differs from ours by {statistics.mean(gaps):.3f} on average, {max(gaps):.3f} at most"
        )


if __name__ == "__main__":
    main()
