"""Fine-tuning beside what people use: tokens/s, memory and loss of ours, TRL and a plain transformers loop, in turn.

    python benchmarks/sft_vs_peers.py --data gsm8k_train.jsonl --peer-python PEER/bin/python [--rounds 3] [--rows 160]

Every measurement is a process of its own; the systems take turns within a round. All train the same model on the same
rows in the same order, eight a step. Real tokens are those of the rows, no padding counted; tokens/s leaves the first
step out; memory is the most the process ever held. The peers' environment needs torch, transformers, datasets, trl and
peft.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

OURS = r"""
import json, sys, time
from pathlib import Path
job = json.load(open(sys.argv[1]))
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.stages import sft
times = []
class Clock(Silent):
    def advance(self, done, **facts):
        if "loss/train" in facts:
            times.append(time.perf_counter())
settings = dict(model=job["model"], data=[{"file": job["messages"], "format": "messages"}], batch_size=job["batch"],
                learning_rate=job["rate"], lr_scheduler_type="constant", warmup_ratio=0.0, generate_rows=0,
                validation_rows=0, cutoff_len=1024, seed=0, max_grad_norm=1.0, adam_beta2=0.999, **job["ours"])
run = Run.start(Path(job["folder"]) / "run", settings)
sft.run(sft.Config(**settings), run, Clock(), {})
lines = run.metrics()
json.dump({"times": times, "losses": [l["loss/train"] for l in lines], "tokens": [l["tokens/step"] for l in lines]},
          open(sys.argv[2], "w"))
"""

PLAIN = r"""
import json, sys, time, torch
from transformers import AutoModelForCausalLM
job = json.load(open(sys.argv[1])); rows = json.load(open(job["rows"]))
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32); model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=job["rate"], weight_decay=0.0, fused=True)
times, losses, tokens = [], [], []
for low in range(0, len(rows), job["batch"]):
    some = rows[low : low + job["batch"]]
    longest = max(len(r["tokens"]) for r in some)
    ids = torch.tensor([r["tokens"] + [2] * (longest - len(r["tokens"])) for r in some])
    labels = torch.tensor([[t if w else -100 for t, w in zip(r["tokens"], r["weights"])] + [-100] * (longest - len(r["tokens"])) for r in some])
    mask = torch.tensor([[1] * len(r["tokens"]) + [0] * (longest - len(r["tokens"])) for r in some])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step(); optimizer.zero_grad()
    times.append(time.perf_counter()); losses.append(float(loss)); tokens.append(sum(len(r["tokens"]) for r in some))
json.dump({"times": times, "losses": losses, "tokens": tokens}, open(sys.argv[2], "w"))
"""

TRL = r"""
import json, sys, time, torch
job = json.load(open(sys.argv[1])); rows = json.load(open(job["rows"]))
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(job["model"])
data = Dataset.from_list([{"input_ids": r["tokens"], "completion_mask": [int(w > 0) for w in r["weights"]]} for r in rows])
config = SFTConfig(output_dir=job["folder"] + "/trl", per_device_train_batch_size=job["batch"], num_train_epochs=1,
    learning_rate=job["rate"], lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
    logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, bf16=True, max_length=1024, seed=0,
    gradient_checkpointing=False, completion_only_loss=True, disable_tqdm=True, **job["trl"])
class Clock(TrainerCallback):
    times = []
    def on_step_end(self, *_, **__): self.times.append(time.perf_counter())
class InOrder(SFTTrainer):
    def _get_train_sampler(self, *_, **__): return torch.utils.data.SequentialSampler(self.train_dataset)
peft_config = None
if job["lora"]:
    from peft import LoraConfig
    peft_config = LoraConfig(**job["lora"], task_type="CAUSAL_LM")
trainer = InOrder(model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()], peft_config=peft_config)
trainer.train()
losses = [l["loss"] for l in trainer.state.log_history if "loss" in l]
size = job["batch"]
tokens = [sum(len(r["tokens"]) for r in rows[low : low + size]) for low in range(0, len(rows), size)]
json.dump({"times": Clock.times, "losses": losses, "tokens": tokens}, open(sys.argv[2], "w"))
"""

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}  # fmt: skip


def prepare(data: Path, n: int, batch: int, folder: Path) -> dict[str, str]:
    """The rows as all shall see them, in the order that ours trains on: two files and the model's folder."""
    from thinkling.core.progress import Silent
    from thinkling.data.loader import Loader
    from thinkling.data.prepare import prepare as tokenised
    from thinkling.data.rows import read_conversations
    from thinkling.model.names import resolve
    from thinkling.tokenizer.tokenizer import Tokenizer

    model = resolve("smollm2-135m", Silent())
    questions = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()[:n]]
    messages = folder / "rows.jsonl"
    messages.write_text(
        "".join(
            json.dumps(
                {"messages": [{"role": "user", "content": q["question"]}, {"role": "assistant", "content": q["answer"]}]}
            )
            + "\n"
            for q in questions
        ),
        encoding="utf-8",
    )
    rows = tokenised(read_conversations(messages, "messages"), Tokenizer.load(model), cutoff_len=1024).rows
    order = [row for chosen in Loader(rows, batch_rows=batch, seed=0).plan(0) for row in chosen]
    ordered = [{"tokens": rows[i].tokens, "weights": rows[i].weights} for i in order]
    (folder / "rows.json").write_text(json.dumps(ordered), encoding="utf-8")
    return {"model": str(model), "messages": str(messages), "rows": str(folder / "rows.json")}


def measured(python: str, code: str, job: dict[str, object]) -> dict[str, object]:
    """One process: what it wrote, tokens/s without the first step, and its peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        told, wrote = Path(folder) / "job.json", Path(folder) / "out.json"
        told.write_text(json.dumps({**job, "folder": folder}), encoding="utf-8")
        with open(Path(folder) / "log", "w", encoding="utf-8") as log:
            process = subprocess.Popen([python, "-c", code, str(told), str(wrote)], stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise SystemExit(f"a process ended with {status}:\n{(Path(folder) / 'log').read_text()[-3000:]}")
        found = json.loads(wrote.read_text(encoding="utf-8"))
    seconds = found["times"][-1] - found["times"][0]
    return {**found, "tokens_per_s": sum(found["tokens"][1:]) / seconds, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with question and answer, such as GSM8K's")
    parser.add_argument("--peer-python", help="an interpreter with trl and peft; without it, TRL is left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8, help="rows a step")
    parser.add_argument("--lora", action="store_true", help="LoRA of rank 16 on all seven matrices, ours and TRL's")
    parser.add_argument("--packed", action="store_true", help="TRL with padding_free too")
    parser.add_argument("--out", type=Path, help="write all losses and times here, as JSON")
    options = parser.parse_args()
    tuning = {"method": "lora", "rank": 16, "alpha": 32}
    with tempfile.TemporaryDirectory() as folder:
        job = {
            **prepare(options.data, options.rows, options.batch, Path(folder)),
            "batch": options.batch,
            "rate": 1e-4 if options.lora else 1e-5,
            "ours": {"tuning": tuning} if options.lora else {},
            "lora": LORA if options.lora else None,
            "trl": {},
        }
        systems = {"thinkling": (sys.executable, OURS, job)}
        if options.peer_python:
            systems["trl"] = (options.peer_python, TRL, job)
            if options.packed:
                systems["trl, padding-free"] = (options.peer_python, TRL, {**job, "trl": {"padding_free": True}})
        if not options.lora:
            systems["plain loop"] = (options.peer_python or sys.executable, PLAIN, job)
        found: dict[str, list[dict[str, object]]] = {name: [] for name in systems}
        for number in range(options.rounds):
            for name, (python, code, one) in systems.items():
                found[name].append(measured(python, code, one))
                last = found[name][-1]
                print(f"round {number + 1}: {name:<18} {last['tokens_per_s']:7.0f} tokens/s, {last['peak_gb']:5.1f} GB", flush=True)
    if options.out:
        options.out.write_text(json.dumps(found), encoding="utf-8")
    report(found)


def report(found: dict[str, list[dict[str, object]]]) -> None:
    """Medians and ranges; ratios within a round, because the machine's speed drifts between rounds."""
    ours = found["thinkling"]
    for name, rounds in found.items():
        speeds = [float(r["tokens_per_s"]) for r in rounds]
        memory = statistics.median(float(r["peak_gb"]) for r in rounds)
        ratios = [float(a["tokens_per_s"]) / float(b["tokens_per_s"]) for a, b in zip(ours, rounds, strict=True)]
        losses = rounds[0]["losses"]
        print(
            f"{name:<18} {statistics.median(speeds):6.0f} tokens/s ({min(speeds):.0f} to {max(speeds):.0f}), {memory:.1f} GB; "
            f"thinkling is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}); "
            f"loss {losses[0]:.3f} to {losses[-1]:.3f}"
        )
        gaps = [abs(a - b) for a, b in zip(ours[0]["losses"], losses, strict=True)]
        print(f"{'':<18} largest difference of a step's loss from ours: {max(gaps):.3f} nats, mean {statistics.mean(gaps):.3f}")


if __name__ == "__main__":
    main()
