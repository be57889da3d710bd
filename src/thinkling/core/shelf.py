"""A shelf is a folder whose files are its entries: `rewards/number.py` *is* the reward `number`. There is no list.

Names are listed without importing anything, so that help texts answer in a blink; an entry is imported when it is used.
A private entry needs no install: a path such as `./my_reward.py` works wherever a name does.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from thinkling.core.errors import ConfigError
from thinkling.core.language import tr

PACKAGE = Path(__file__).resolve().parent.parent


def names(shelf: str) -> list[str]:
    """The entries of a shelf, by file name, sorted."""
    return sorted(file.stem for file in (PACKAGE / shelf).glob("*.py") if not file.stem.startswith("_"))


def closest(name: str, known: list[str]) -> str:
    """ "did you mean 'NAME'?", or nothing where no name is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return tr("did you mean '{name}'?", name=near[0]) if near else ""


def entry(shelf: str, name: str) -> ModuleType:
    """The module of one entry, or of a user's own file when `name` is a path that ends in .py.

    Raises:
        ConfigError: No such entry or file.
    """
    if name.endswith(".py"):
        return _private(shelf, Path(name).expanduser())
    known = names(shelf)
    if name not in known:
        raise ConfigError(
            tr("there is no entry '{name}' on the shelf '{shelf}'", name=name, shelf=shelf),
            where=f"{shelf}: {', '.join(known)}",
            fix=closest(name, known) or tr("use one of these, or a file of your own: ./{name}.py", name=name),
        )
    return importlib.import_module(f"thinkling.{shelf}.{name}")


def runs_nothing_new(shelf: str, name: str) -> bool:
    """Whether `entry` would run no program that this process has not run already: for names of strangers."""
    if not name.endswith(".py"):
        return True
    path = Path(name).expanduser()
    known = getattr(sys.modules.get(_module_name(shelf, path)), "__file__", None)
    return known is not None and Path(known).resolve() == path.resolve()


def _module_name(shelf: str, path: Path) -> str:
    return f"thinkling_private_{shelf}_{path.stem}"


def _private(shelf: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(
            tr("there is no file {path}", path=path),
            where=tr("a private entry of the shelf '{shelf}'", shelf=shelf),
            fix=tr("check the path"),
        )
    spec = importlib.util.spec_from_file_location(_module_name(shelf, path), path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pydantic look up the names in annotations
    spec.loader.exec_module(module)
    return module
