"""The page's voice: each sentence in every language of the page; the style sheet shows one, without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from markupsafe import Markup, escape

from thinkling.core.language import catalogue

LANGUAGES = {"en": "English", "zh": "中文"}
Text = TypeVar("Text", str, Markup)


class Speaker:
    """A `Say` that gives markup: `<span class="say-en">…</span><span class="say-zh">…</span>`.

    Facts are escaped. A text without facts is no template: text from a run's files may be said, braces and all.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        assert set(languages) <= set(LANGUAGES), languages
        self.languages = tuple(languages)
        """The first one is shown when the page opens."""

    def __call__(self, text: str, /, **facts: object) -> Markup:
        said = [(code, _filled(escape(_translate(text, code)), facts)) for code in self.languages]
        if len(said) == 1:
            return said[0][1]
        return Markup("").join(
            Markup('<span class="say-{0}" lang="{0}">{1}</span>').format(code, it) for code, it in said
        )

    def plain(self, text: str, /, **facts: object) -> str:
        """The first language alone, without markup: for titles and attributes, which can hold one."""
        return _filled(_translate(text, self.languages[0]), facts)


def _filled(text: Text, facts: Mapping[str, object]) -> Text:
    # A number and its per cent sign stay on one line.
    return text.replace(" %", "\u00a0%").format(**facts) if facts else text.replace(" %", "\u00a0%")


def _translate(text: str, code: str) -> str:
    return catalogue(code).get(text, text)
