"""`thinkling data`: look at rows before anything is trained on them. What is printed is made in `apps/data_show.py`."""

from __future__ import annotations

from typing import Annotated

import typer


def show(
    file: Annotated[str, typer.Argument(help="JSON lines or a JSON list, .gz too; or task:NAME?level=2.")],
    model: Annotated[str, typer.Option(help="Whose tokenizer and chat template.")] = "smollm2-135m",
    format: Annotated[str | None, typer.Option(help="An entry of the shelf formats; else by exact keys.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many to show.")] = 3,
    cutoff_len: Annotated[int, typer.Option(min=2, help="Longest row, in tokens.")] = 1024,
    masks: Annotated[bool, typer.Option("--masks", help="Also draw the attention mask and the loss mask.")] = False,
) -> None:
    """The rows token by token, and the account of the whole file."""
    from thinkling.apps import data_show

    data_show.show(file, model, rows, cutoff_len, format, masks=masks)
