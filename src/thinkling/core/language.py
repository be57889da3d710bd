"""The language of what people read: English in the code, other languages in a catalogue beside this file.

The English text is the key, so that code reads as what it prints and a text without a translation is still printed.
The language comes from THINKLING_LANG, or else from the locale (LC_ALL, LC_MESSAGES, LANG); `zh…` is Chinese.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path

VARIABLES = ("THINKLING_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


def language(environment: Mapping[str, str] | None = None) -> str:
    """The first two letters of the first variable that is set: `en`, `zh`; what names no language is `en`."""
    variables = os.environ if environment is None else environment
    named = next((variables[name] for name in VARIABLES if variables.get(name)), "en")
    code = named[:2].lower()
    # Only letters go on: the code becomes a part of a file name. "C", "C.UTF-8" and "POSIX" name no language.
    return code if re.fullmatch("[a-z]{2}", code) and code != "po" else "en"


@functools.cache
def catalogue(code: str) -> Mapping[str, str]:
    """English to this language; empty where there is no catalogue, as for English itself."""
    here = Path(__file__).parent
    files = [*here.glob(f"{code}.yaml"), *sorted(here.glob(f"{code}_*.yaml"))]
    if not files:
        return {}
    # Here and not above: English needs no YAML, and `--help` answers before it could be read.
    import yaml

    # Where two files know a text, the first one has the word: zh.yaml before zh_report.yaml.
    known = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    return {text: said for catalogue_of_file in reversed(known) for text, said in catalogue_of_file.items()}


def tr(text: str, /, **facts: object) -> str:
    """`text` in the user's language, its {placeholders} filled from `facts`.

    Example:
        >>> tr("{n} steps", n=3)
        '3 steps'
    """
    said = catalogue(language()).get(text, text)
    return said.format(**facts) if facts else said
