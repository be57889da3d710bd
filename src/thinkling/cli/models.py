"""`thinkling models`: which models have a short name, fetching one, and what one is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thinkling.core.language import tr

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Alias, folder, run, GGUF file or hub id.")]


def listing() -> None:
    """One line a model; whether it is in the cache."""
    from thinkling.model import names

    for alias in names.known():
        there = alias["folder"] or tr("not fetched, {size} MiB", size=f"{alias['download_mib']:.0f}")
        typer.echo(f"{alias['name']}  {alias['about']}, {alias['licence']}  ({there})")


def pull(model: Name) -> None:
    """Fetch a model; standard output is its folder and nothing else."""
    typer.echo(_resolved(model))


def show(model: Name) -> None:
    """Family, sizes, folder and files."""
    from thinkling.apps.console import two_columns
    from thinkling.model.folder import read_config

    folder = _resolved(model)
    config = read_config(folder)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    rows = {
        "family": config.family,
        "parameters": f"{config.n_parameters:,}",
        "layers": str(config.n_layers),
        "width": tr("{d}, feed-forward {f}", d=config.width, f=config.ffn_width),
        "heads": tr("{h} of {e}, {k} for keys and values", h=config.n_heads, e=config.head_width, k=config.n_kv_heads),
        "vocabulary": f"{config.vocab_size:,}",
        "context": tr("{n} tokens", n=f"{config.max_positions:,}"),
        "embeddings": tr("tied") if config.tied_embeddings else tr("untied"),
        "folder": tr("{folder} ({size} MiB)", folder=folder, size=f"{size / 2**20:,.0f}"),
    }
    for line in two_columns(rows):
        typer.echo(line.removeprefix("  "))


def _resolved(model: str) -> Path:
    """The local folder of a model; progress goes to standard error."""
    import sys

    from thinkling.apps.console import Terminal
    from thinkling.model import names

    with Terminal(sys.stderr) as progress:
        return names.resolve(model, progress)
