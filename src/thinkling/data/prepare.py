"""From conversations to rows of weighted tokens, with an account of everything that did not make it.

Nothing is lost silently: rows left out, cut or split are counted, and a file that would teach nothing, or that loses
more answers than a threshold, is refused before the first step, with the setting that would mend it.

The rules. A row longer than `cutoff_len` is left out ("drop"), cut at its end ("cut") or an error ("error"). Tokens
after the last learnt one are left off: a causal model's loss cannot see them. A row whose characters already show that
it is too long is left out without being tokenised, which would take minutes for 100 MB. A row with a blank answer to
learn is left out. A conversation whose template rewrites earlier turns becomes one row an answer (tokenizer/chat.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from thinkling.core.errors import ConfigError, DataError
from thinkling.core.progress import Progress, Silent
from thinkling.data.types import Conversation, Message
from thinkling.tokenizer.chat import encode_turns, render

if TYPE_CHECKING:
    from thinkling.tokenizer.tokenizer import Tokenizer

TooLong = Literal["drop", "cut", "error"]

# Two rows in a hundred: more than a few outliers means that the cutoff does not fit the data.
MAX_LOST_ANSWERS = 0.02
# How often the tokenising of many rows tells how far it is: as often as a bar is drawn.
TELL_EVERY_S = 0.25
WHITE_SPACE = "".join(character for character in map(chr, range(0x3001)) if character.isspace())


@dataclass(frozen=True)
class TokenRow:
    """One row to train on."""

    tokens: list[int]
    """(N,) ids; the last one is learnt."""
    weights: list[float]
    """(N,) how much the prediction of each counts."""
    source: str
    """The file and line, or task and item, it came from."""

    @property
    def n_supervised(self) -> int:
        """Tokens whose prediction counts; the first token of a row has no predictor."""
        return sum(weight != 0 for weight in self.weights[1:])


@dataclass(frozen=True)
class Unread:
    """A row that was not tokenised, because it is longer than the cutoff however its text is cut into tokens."""

    source: str
    tokens: int
    """It has at least so many."""


@dataclass(frozen=True)
class PrepareReport:
    """What became of the conversations. `rows` = `kept` + `dropped` + `blank` + `nothing_learnt`."""

    rows: int
    """Conversations, after those of rewriting templates were split into one row an answer."""
    kept: int
    """Rows to train on, cut ones included."""
    dropped: int
    """Too long and left out, or cut before the first learnt token."""
    cut: int
    """Kept without their end."""
    answers_cut: int
    """Rows that lost the end of an answer: all that were dropped or cut for their length."""
    blank: int
    """Left out because an answer to learn is empty."""
    nothing_learnt: int
    """Left out because no message is to be learnt."""
    split: int
    """Conversations split into one row an answer, because the template rewrites earlier turns."""
    tokens: int
    supervised_tokens: int
    longest: int
    """Tokens of the longest row before the cutoff; at least so many where a row was not tokenised."""
    unread: int
    """Rows among those dropped that were not tokenised, because their characters show that they are too long."""
    cutoff_len: int

    @property
    def lost_answers(self) -> float:
        """Share of all rows that lost the end of an answer, 0 to 1."""
        return self.answers_cut / self.rows if self.rows else 0.0

    def lines(self) -> list[str]:
        """The account in words; counts of zero are not mentioned."""
        counted = [
            (self.dropped, f"too long for cutoff_len {self.cutoff_len}: left out"),
            (self.cut, f"too long for cutoff_len {self.cutoff_len}: cut, and the end of the answer is not learnt"),
            (self.blank, "with an empty answer: left out"),
            (self.nothing_learnt, "without a message to learn: left out"),
            (self.split, "conversations split into one row an answer: the chat template rewrites earlier turns"),
        ]
        kept = (
            f"{self.kept:,} of {self.rows:,} rows, {self.tokens:,} tokens, "
            f"{self.supervised_tokens:,} of them learnt; the longest row had "
            f"{'at least ' if self.unread else ''}{self.longest:,}"
        )
        return [kept, *(f"{count:,} {words}" for count, words in counted if count)]


@dataclass(frozen=True)
class Prepared:
    """Rows to train on, and the account of how they came about."""

    rows: list[TokenRow]
    report: PrepareReport


def prepare(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    *,
    cutoff_len: int,
    too_long: TooLong = "drop",
    max_lost_answers: float = MAX_LOST_ANSWERS,
    progress: Progress | None = None,
) -> Prepared:
    """Conversations as rows of at most `cutoff_len` tokens, each ending in a learnt token.

    Args:
        conversations: In file order; the rows keep it.
        tokenizer: Its chat template writes the text.
        cutoff_len: Longest row, in tokens.
        too_long: What becomes of longer ones: "drop", "cut" or "error".
        max_lost_answers: Share of rows, 0 to 1, that may lose the end of an answer to the cutoff.
        progress: Told how far it is; a hundred thousand rows take a minute.

    Raises:
        DataError: No conversations, nothing to learn in any, more answers lost than allowed, or (under "error") one
            row too long.
        ConfigError: A setting that cannot be right.
    """
    _check_settings(cutoff_len, too_long, max_lost_answers)
    conversations = list(conversations)
    # A row to be cut has to be tokenised, however long.
    most_tokens = None if too_long == "cut" else cutoff_len
    encoded = _encode_all(conversations, tokenizer, most_tokens, progress or Silent())
    whole = [row for one in encoded for row in one.rows]
    unread = [one.unread for one in encoded if one.unread is not None]
    if unread and too_long == "error":
        raise _over_the_cutoff(f"at least {unread[0].tokens:,}", unread[0].source, cutoff_len)
    blank = sum(one.left_out == "blank" for one in encoded)
    nothing = sum(one.left_out == "nothing_learnt" for one in encoded)
    kept = _fit(whole, cutoff_len, too_long)
    cut = sum(len(row.tokens) > cutoff_len and short is not None for row, short in zip(whole, kept, strict=True))
    rows = [row for row in kept if row is not None]
    dropped = len(whole) - len(rows) + len(unread)
    lengths = [len(row.tokens) for row in whole] + [row.tokens for row in unread]
    report = PrepareReport(
        rows=len(lengths) + blank + nothing,
        kept=len(rows),
        dropped=dropped,
        cut=cut,
        answers_cut=dropped + cut,
        blank=blank,
        nothing_learnt=nothing,
        split=sum(len(one.rows) > 1 for one in encoded),
        tokens=sum(len(row.tokens) for row in rows),
        supervised_tokens=sum(row.n_supervised for row in rows),
        longest=max(lengths, default=0),
        unread=len(unread),
        cutoff_len=cutoff_len,
    )
    first = f"{conversations[0].source} is the first" if conversations else "data"
    _refuse_what_teaches_nothing(report, lengths, unread, max_lost_answers, first)
    return Prepared(rows, report)


def _check_settings(cutoff_len: int, too_long: str, max_lost_answers: float) -> None:
    if cutoff_len < 2:
        raise ConfigError(
            f"cutoff_len {cutoff_len} leaves no token to predict",
            where="cutoff_len",
            fix="set it to 2 or more, usually 512",
        )
    if too_long not in get_args(TooLong):
        raise ConfigError(
            f"there is no rule '{too_long}' for rows too long",
            where="too_long",
            fix='too_long is "drop", "cut" or "error"',
        )
    if not 0 <= max_lost_answers <= 1:
        raise ConfigError(
            f"max_lost_answers is a share of rows, not {max_lost_answers}",
            where="max_lost_answers",
            fix="set it between 0 and 1",
        )


@dataclass(frozen=True)
class Encoded:
    """One conversation as rows, before any cutoff."""

    rows: list[TokenRow]
    """One, or one an answer where the chat template rewrites earlier turns; none where it is left out."""
    left_out: Literal["", "blank", "nothing_learnt"] = ""
    """Why there are none: an answer to learn is empty, or no message is to be learnt."""
    unread: Unread | None = None
    """The one row there would be, where it is surely too long."""


def encode_rows(conversation: Conversation, tokenizer: Tokenizer, most_tokens: int | None = None) -> Encoded:
    """The very rows that are trained on, without the tokens after the last learnt one.

    Args:
        most_tokens: A row that surely has more is not tokenised; None tokenises all.

    Raises:
        DataError, ModelError: As `tokenizer.chat.encode_turns`, with the place of the conversation.
    """
    learnt = [index for index in range(len(conversation.messages)) if conversation.learns(index)]
    if not learnt:
        return Encoded([], "nothing_learnt")
    if any(not conversation.messages[index].content.strip() for index in learnt):
        return Encoded([], "blank")
    try:
        # A conversation with several learnt answers may become several rows, the first of them short.
        if most_tokens is not None and len(learnt) == 1:
            fewest = _fewest_tokens(conversation.messages[: learnt[0] + 1], tokenizer, most_tokens)
            if fewest > most_tokens:
                return Encoded([], unread=Unread(conversation.source, fewest))
        encoded = encode_turns(tokenizer, conversation)
    except DataError as error:
        where = ", ".join(filter(None, [conversation.source, error.where]))
        raise type(error)(error.what, where=where, fix=error.fix) from error
    return Encoded([_trimmed(TokenRow(tokens, weights, conversation.source)) for tokens, weights in encoded])


def _fewest_tokens(messages: Sequence[Message], tokenizer: Tokenizer, most_tokens: int) -> int:
    """Tokens that these messages have at least, however their text is cut; 0 where that is not worth looking at.

    White space does not count, for templates and tokenizers may drop it.
    """
    longest = tokenizer.longest_token
    characters = sum(len(message.content) + len(message.reasoning or "") for message in messages)
    if longest is None or characters <= most_tokens * longest:
        return 0
    text = render(tokenizer, messages, add_generation_prompt=False)
    return (len(text) - sum(map(text.count, WHITE_SPACE))) // longest


def _encode_all(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, most_tokens: int | None, progress: Progress
) -> list[Encoded]:
    progress.start("tokenising", len(conversations), "rows")
    encoded: list[Encoded] = []
    told = time.monotonic()
    for conversation in conversations:
        encoded.append(encode_rows(conversation, tokenizer, most_tokens))
        if time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            progress.advance(len(encoded))
    progress.advance(len(encoded))
    progress.finish()
    return encoded


def _trimmed(row: TokenRow) -> TokenRow:
    end = next((place for place in range(len(row.weights), 0, -1) if row.weights[place - 1]), 0)
    return TokenRow(row.tokens[:end], row.weights[:end], row.source)


def _fit(rows: Sequence[TokenRow], cutoff_len: int, too_long: TooLong) -> list[TokenRow | None]:
    """Each row within the cutoff, by the rule; None for those left out."""
    fitted: list[TokenRow | None] = []
    for row in rows:
        if len(row.tokens) <= cutoff_len:
            fitted.append(row)
        elif too_long == "error":
            raise _over_the_cutoff(f"{len(row.tokens):,}", row.source, cutoff_len)
        elif too_long == "drop":
            fitted.append(None)
        else:
            short = _trimmed(TokenRow(row.tokens[:cutoff_len], row.weights[:cutoff_len], row.source))
            fitted.append(short if short.n_supervised else None)
    return fitted


def _over_the_cutoff(tokens: str, source: str, cutoff_len: int) -> DataError:
    raised = tokens.replace(",", "")
    return DataError(
        f"a row has {tokens} tokens and cutoff_len is {cutoff_len:,}",
        where=source,
        fix=f'raise cutoff_len to {raised}, or say too_long="drop" or "cut"',
    )


def _refuse_what_teaches_nothing(
    report: PrepareReport, lengths: list[int], unread: list[Unread], max_lost_answers: float, where: str
) -> None:
    if report.rows == 0:
        raise DataError(
            "there are no rows", where=where, fix="check that the file has lines, and that the right one was named"
        )
    if not lengths:
        raise DataError(
            f"all {report.rows:,} rows are masked: nothing would be trained on "
            f"({report.nothing_learnt:,} have no message to learn, {report.blank:,} an empty answer)",
            where=where,
            fix="each conversation needs an assistant message with text; see `thinkling data show FILE`",
        )
    if report.kept == 0:
        raise DataError(
            f"no answer fits into cutoff_len {report.cutoff_len:,}: nothing would be trained on",
            where=f"{len(lengths):,} rows of {min(lengths):,} to {report.longest:,} tokens",
            fix=_mend(lengths, unread, report.rows, max_lost_answers),
        )
    if report.lost_answers > max_lost_answers:
        raise DataError(
            f"{report.answers_cut:,} of {report.rows:,} rows ({report.lost_answers:.1%}) lose the end of their answer "
            f"at cutoff_len {report.cutoff_len:,}; at most {max_lost_answers:.1%} may",
            where=f"row lengths in tokens: median {sorted(lengths)[len(lengths) // 2]:,}, longest {report.longest:,}",
            fix=_mend(lengths, unread, report.rows, max_lost_answers),
        )


def _mend(lengths: list[int], unread: list[Unread], rows: int, max_lost_answers: float) -> str:
    """The cutoff that loses no more than allowed, and the one that loses nothing."""
    allowed = min(math.floor(max_lost_answers * rows), len(lengths) - 1)
    if len(unread) > allowed:
        first = f"{unread[0].source} (at least {unread[0].tokens:,} tokens)"
        more = f" and {len(unread) - 1:,} more like it" if len(unread) > 1 else ""
        return f"shorten or take out {first}{more}, or allow the loss with max_lost_answers"
    enough, everything = sorted(lengths, reverse=True)[allowed], max(lengths)
    if unread:
        return f"raise cutoff_len to {enough}, or allow the loss with max_lost_answers"
    keeps_all = f" ({everything} keeps every row)" if everything > enough else ""
    return f"raise cutoff_len to {enough}{keeps_all}, or allow the loss with max_lost_answers"
