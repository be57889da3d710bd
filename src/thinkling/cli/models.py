"""`thinkling models`: list, pull, show. What is printed is made in `apps/models.py`."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Alias, folder, run, GGUF file or hub id.")]


def listing() -> None:
    """The aliases, and what else may be written where a model is wanted."""
    from thinkling.apps.models import list_models

    list_models()


def pull(model: Name) -> None:
    """Fetch a model; standard output is its folder and nothing else."""
    import sys

    from thinkling.apps import models
    from thinkling.apps.console import Terminal

    with Terminal(sys.stderr) as progress:
        models.pull(model, progress)


def show(model: Name) -> None:
    """Family, sizes, folder and files."""
    import sys

    from thinkling.apps import models
    from thinkling.apps.console import Terminal

    with Terminal(sys.stderr) as progress:
        models.show(model, progress)
