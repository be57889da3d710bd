"""The words of the page, told to somebody who reads such a page for the first time."""

from __future__ import annotations

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "token",
        "A piece of text, from one letter to a whole word: what a language model reads and writes one at a time.",
    ),
    (
        "prompt and completion",
        "What goes in, and what the model adds to it.",
    ),
    (
        "95 % interval",
        "Another draw of as many problems would give another score. In 95 of 100 draws an interval made in this "
        "way holds the true value. It is by Wilson's formula, which is also right near 0 and 100 %; for written "
        "equations it allows for those of one output being true or false together.",
    ),
    (
        "difference",
        "After minus before, problem by problem: only problems whose answer changed say anything. Gained were "
        "wrong and became right, lost were right and became wrong.",
    ),
    (
        "point",
        "One per cent of all problems: from 40 % to 50 % is ten points.",
    ),
    (
        "trivial rule",
        "What somebody scores who does not read the problem, for example by always answering 4. A score means "
        "something only above it.",
    ),
    (
        "trained, one step harder, not taught",
        "New problems of the kinds that were taught; the same kinds with longer or larger problems; other kinds, "
        "to see what carries over and what was forgotten.",
    ),
    (
        "right if the last number counts",
        "The lenient reading: the last number written is taken as the answer, wherever it stands. Shown to tell a"
        " missing form from a missing answer; it never counts.",
    ),
    (
        "cut off",
        "The model was still writing at the length limit.",
    ),
    (
        "training step",
        "One change of the model's weights, after some dozens of examples.",
    ),
    (
        "loss",
        "How surprised the model is by the right next token, in nats: 0 is certain, 0.69 is a coin toss. A lower "
        "loss is not yet a right answer, so both are shown.",
    ),
    (
        "computed numbers, copied numbers, marks",
        "Copied numbers stand in the question or earlier in the same text; computed ones do not, so only they ask "
        "for arithmetic. Marks are the form: ####, =, line ends, the tags of a thought.",
    ),
    (
        "validation",
        "Problems kept out of training on which the model is tried from time to time. The scores above are on yet"
        " others.",
    ),
    (
        "learning rate",
        "How far one step moves the weights.",
    ),
)
"""(term, meaning)"""
