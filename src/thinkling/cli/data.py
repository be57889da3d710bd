"""`thinkling data`: look at the rows before anything is trained on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def show(
    file: Annotated[Path, typer.Argument(help="JSON lines or a JSON list, .gz too.")],
    model: Annotated[str, typer.Option(help="Whose tokenizer and chat template.")] = "smollm2-135m",
    format: Annotated[str | None, typer.Option(help="An entry of the shelf formats; else by exact keys.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="How many to show.")] = 3,
    cutoff_len: Annotated[int, typer.Option(min=2, help="Longest row, in tokens.")] = 1024,
) -> None:
    """Learnt tokens in colour (between ⟦ and ⟧ where there is none), every token between bars, then the account."""
    from thinkling.apps.console import Terminal
    from thinkling.apps.tokens import account, marked, plain
    from thinkling.data.prepare import prepare
    from thinkling.data.rows import read_conversations
    from thinkling.model import names
    from thinkling.tokenizer.tokenizer import Tokenizer

    conversations = read_conversations(file, format)
    with Terminal(sys.stderr) as progress:
        tokenizer = Tokenizer.load(names.resolve(model, progress))
    prepared = prepare(conversations, tokenizer, cutoff_len=cutoff_len, max_lost_answers=1.0)
    terminal = Terminal()
    for row in prepared.rows[:rows]:
        terminal.console.print(row.source, style="bold")
        terminal.console.print(marked(tokenizer, row) if terminal.live else plain(tokenizer, row))
        terminal.console.print()
    for line in account(prepared):
        terminal.console.print(line)
