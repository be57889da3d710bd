"""From conversations to rows of weighted tokens, with an account of everything that did not make it.

Nothing is lost silently: rows left out, cut or split are counted, and a file that would teach nothing, or that loses
more answers than a threshold, is refused before the first step, with the setting that would mend it.

The rules. A row longer than `cutoff_len` is left out ("drop"), cut at its end ("cut") or an error ("error"). Tokens
after the last learnt one are left off: a causal model's loss cannot see them. A row whose characters already show that
it is too long is left out without being tokenised, which would take minutes for 100 MB. A row with a blank answer to
learn is left out. A conversation whose template rewrites earlier turns becomes one row an answer (tokenizer/chat.py).

Conversations are taken as a stream and become a token file (tokens.py), chunk by chunk; of what is lost only counts
are kept. So memory does not grow with the data.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from thinkling.core.errors import ConfigError, DataError
from thinkling.core.progress import Progress, Silent
from thinkling.data.mixture import Mixture, Source
from thinkling.data.tokens import Chunk, TokenRow, TokenWriter, temporary
from thinkling.data.types import Conversation, Message
from thinkling.data.workers import in_order
from thinkling.tokenizer.chat import encode_turns, render

if TYPE_CHECKING:
    from thinkling.tokenizer.tokenizer import Tokenizer

TooLong = Literal["drop", "cut", "error"]

# Two rows in a hundred: more than a few outliers means that the cutoff does not fit the data.
MAX_LOST_ANSWERS = 0.02
# How often the tokenising of many rows tells how far it is: as often as a bar is drawn.
TELL_EVERY_S = 0.25
# Conversations that are encoded together: a worker's errand of some hundredths of a second, and never a large one.
CHUNK_ROWS = 64
CHUNK_CHARACTERS = 1_000_000
# Longer lengths are counted together, within 0.2 % and rounded up, so that their table stays small.
EXACT_LENGTHS = 1 << 16
WHITE_SPACE = "".join(character for character in map(chr, range(0x3001)) if character.isspace())


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


@dataclass
class Account:
    """What became of a stream of conversations, as counts: it adds up, and its size does not grow with the stream."""

    conversations: int = 0
    kept: int = 0
    dropped: int = 0
    cut: int = 0
    blank: int = 0
    nothing_learnt: int = 0
    split: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    longest: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """How many rows had so many tokens before any cutoff; those not tokenised have at least so many."""
    unread: list[Unread] = field(default_factory=list)
    """The first row that was not tokenised."""
    n_unread: int = 0
    first: str = ""
    """Where the first conversation came from."""

    def __iadd__(self, other: Account) -> Account:
        for name in (
            "conversations", "kept", "dropped", "cut", "blank", "nothing_learnt", "split", "tokens",
            "supervised_tokens", "n_unread",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        self.lengths.update(other.lengths)
        self.unread = (self.unread + other.unread)[:1]
        self.first = self.first or other.first
        return self

    def as_dict(self) -> dict[str, Any]:
        """For meta.json of a token file."""
        return {**asdict(self), "lengths": sorted(self.lengths.items())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Account:
        """What `as_dict` gave."""
        unread = [Unread(**one) for one in values["unread"]]
        lengths = Counter({int(length): int(count) for length, count in values["lengths"]})
        return cls(**{**values, "lengths": lengths, "unread": unread})

    def report(self, cutoff_len: int) -> PrepareReport:
        """The counts as they are shown."""
        return PrepareReport(
            rows=self.lengths.total() + self.blank + self.nothing_learnt,
            kept=self.kept,
            dropped=self.dropped,
            cut=self.cut,
            answers_cut=self.dropped + self.cut,
            blank=self.blank,
            nothing_learnt=self.nothing_learnt,
            split=self.split,
            tokens=self.tokens,
            supervised_tokens=self.supervised_tokens,
            longest=self.longest,
            unread=self.n_unread,
            cutoff_len=cutoff_len,
        )

    def _see(self, length: int) -> None:
        step = 1 << max(0, length.bit_length() - 10)
        self.lengths[length if length <= EXACT_LENGTHS else -(-length // step) * step] += 1
        self.longest = max(self.longest, length)

    def take(self, source: str, encoded: Encoded, cutoff_len: int, too_long: TooLong) -> list[TokenRow]:
        """Count what became of one conversation; returns its rows as they are trained on.

        Raises:
            DataError: Under "error", a row is too long.
        """
        self.conversations += 1
        self.first = self.first or source
        self.blank += encoded.left_out == "blank"
        self.nothing_learnt += encoded.left_out == "nothing_learnt"
        self.split += len(encoded.rows) > 1
        if encoded.unread is not None:
            if too_long == "error":
                raise _over_the_cutoff(f"at least {encoded.unread.tokens:,}", source, cutoff_len)
            self._see(encoded.unread.tokens)
            self.unread = [*self.unread, encoded.unread][:1]
            self.n_unread += 1
            self.dropped += 1
        for row in encoded.rows:
            self._see(len(row.tokens))
        fitted = [(row, _fitted(row, cutoff_len, too_long)) for row in encoded.rows]
        kept = [short for _, short in fitted if short is not None]
        self.kept += len(kept)
        self.dropped += len(fitted) - len(kept)
        self.cut += sum(short is not None and short is not row for row, short in fitted)
        self.tokens += sum(len(row.tokens) for row in kept)
        self.supervised_tokens += sum(row.n_supervised for row in kept)
        return kept


@dataclass(frozen=True)
class Prepared:
    """Rows to train on, and the account of how they came about."""

    rows: Mixture
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
        conversations: In file order; the rows keep it. A stream is read as it is tokenised.
        tokenizer: Its chat template writes the text.
        cutoff_len: Longest row, in tokens.
        too_long: What becomes of longer ones: "drop", "cut" or "error".
        max_lost_answers: Share of rows, 0 to 1, that may lose the end of an answer to the cutoff.
        progress: Told how far it is, where it is known how many conversations there are.

    Raises:
        DataError: No conversations, nothing to learn in any, more answers lost than allowed, or (under "error") one
            row too long.
        ConfigError: A setting that cannot be right.
    """
    check_rules(cutoff_len, too_long, max_lost_answers)
    fill = functools.partial(
        write_rows,
        conversations=conversations,
        tokenizer=tokenizer,
        cutoff_len=cutoff_len,
        too_long=too_long,
        progress=progress,
    )
    return judged([Source(temporary(fill))], cutoff_len, max_lost_answers)


def judged(sources: Sequence[Source], cutoff_len: int, max_lost_answers: float = MAX_LOST_ANSWERS) -> Prepared:
    """Token files that `write_rows` has written as one mixture, with their accounts added up.

    Raises:
        DataError: No conversations, nothing to learn in any, or more answers lost than allowed.
        ConfigError: As `Mixture`.
    """
    account = Account()
    for source in sources:
        account += Account.from_dict(source.rows.meta["account"])
    report = account.report(cutoff_len)
    _refuse_what_teaches_nothing(report, account, max_lost_answers)
    return Prepared(Mixture(sources), report)


def write_rows(
    folder: Path,
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    *,
    cutoff_len: int,
    too_long: TooLong = "drop",
    workers: int = 0,
    progress: Progress | None = None,
    **facts: Any,
) -> None:
    """Write the rows of a stream of conversations into a folder as a token file, with its account.

    Args:
        workers: Processes that tokenise; 0: this one does. The file is the same, byte for byte, whatever the number.
        facts: What else meta.json shall tell.

    Raises:
        DataError, ModelError: A conversation that cannot be rendered, or (under "error") one row too long.
        MachineError: A worker died.
    """
    account = Account()
    encoded = _encoded(conversations, tokenizer, cutoff_len, too_long, workers, progress or Silent())
    # Closed at once where the disk refuses: else the workers would live as long as somebody holds the error.
    with TokenWriter(folder) as writer, contextlib.closing(encoded):
        for chunk, counted in encoded:
            writer.add(chunk)
            account += counted
        writer.close(account=account.as_dict(), **facts)


def account_of(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    *,
    cutoff_len: int,
    too_long: TooLong = "drop",
    progress: Progress | None = None,
) -> PrepareReport:
    """What training would make of these conversations; nothing of them is kept.

    Raises:
        DataError: As `write_rows`, and where nothing would be learnt.
        ModelError: As `write_rows`.
    """
    account = Account()
    for _, counted in _encoded(conversations, tokenizer, cutoff_len, too_long, 0, progress or Silent()):
        account += counted
    report = account.report(cutoff_len)
    _refuse_what_teaches_nothing(report, account, max_lost_answers=1.0)
    return report


def _encoded(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    cutoff_len: int,
    too_long: TooLong,
    workers: int,
    progress: Progress,
) -> Generator[tuple[Chunk, Account], None, None]:
    """Chunks of rows in their order, each with its account."""
    # A stream tells how far it is by the bytes that have been read; a list by its rows.
    known = len(conversations) if isinstance(conversations, Sized) else None
    if known is not None:
        progress.start("tokenising", known, "rows")
    done, told = 0, time.monotonic()
    encoding = Encoding(tokenizer.files, cutoff_len, too_long)
    here = functools.partial(encode_chunk, tokenizer=tokenizer, cutoff_len=cutoff_len, too_long=too_long)
    with contextlib.closing(in_order(_chunks(conversations), here, encoding, workers)) as chunks:
        for chunk, counted in chunks:
            yield chunk, counted
            done += counted.conversations
            if known is not None and time.monotonic() - told >= TELL_EVERY_S:
                told = time.monotonic()
                progress.advance(done)
    if known is not None:
        progress.advance(done)
        progress.finish()


def _chunks(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    chunk: list[Conversation] = []
    characters = 0
    for conversation in conversations:
        chunk.append(conversation)
        characters += sum(len(message.content) for message in conversation.messages)
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


@dataclass(frozen=True)
class Encoding:
    """All that a worker must know to encode as this process would."""

    tokenizer_files: Mapping[str, bytes]
    cutoff_len: int
    too_long: TooLong


def encode_chunk(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, cutoff_len: int, too_long: TooLong
) -> tuple[Chunk, Account]:
    """Some conversations as the rows that are trained on, and the account of them.

    Raises:
        DataError, ModelError: As `write_rows`.
    """
    account = Account()
    # A row to be cut has to be tokenised, however long.
    most_tokens = None if too_long == "cut" else cutoff_len
    rows: list[TokenRow] = []
    for conversation in conversations:
        encoded = encode_rows(conversation, tokenizer, most_tokens)
        rows += account.take(conversation.source, encoded, cutoff_len, too_long)
    return Chunk.of(rows), account


def check_rules(cutoff_len: int, too_long: str, max_lost_answers: float) -> None:
    """Refuse rules that cannot be right.

    Raises:
        ConfigError: Says which.
    """
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


def _trimmed(row: TokenRow) -> TokenRow:
    end = next((place for place in range(len(row.weights), 0, -1) if row.weights[place - 1]), 0)
    return TokenRow(row.tokens[:end], row.weights[:end], row.source)


def _fitted(row: TokenRow, cutoff_len: int, too_long: TooLong) -> TokenRow | None:
    """The row itself where it is within the cutoff, else what the rule makes of it; None: left out."""
    if len(row.tokens) <= cutoff_len:
        return row
    if too_long == "error":
        raise _over_the_cutoff(f"{len(row.tokens):,}", row.source, cutoff_len)
    if too_long == "drop":
        return None
    short = _trimmed(TokenRow(row.tokens[:cutoff_len], row.weights[:cutoff_len], row.source))
    return short if short.n_supervised else None


def _over_the_cutoff(tokens: str, source: str, cutoff_len: int) -> DataError:
    raised = tokens.replace(",", "")
    return DataError(
        f"a row has {tokens} tokens and cutoff_len is {cutoff_len:,}",
        where=source,
        fix=f'raise cutoff_len to {raised}, or say too_long="drop" or "cut"',
    )


def _refuse_what_teaches_nothing(report: PrepareReport, account: Account, max_lost_answers: float) -> None:
    if report.rows == 0:
        raise DataError(
            "there are no rows",
            where=f"{account.first} is the first" if account.first else "data",
            fix="check that the file has lines, and that the right one was named",
        )
    if not account.lengths:
        raise DataError(
            f"all {report.rows:,} rows are masked: nothing would be trained on "
            f"({report.nothing_learnt:,} have no message to learn, {report.blank:,} an empty answer)",
            where=f"{account.first} is the first",
            fix="each conversation needs an assistant message with text; see `thinkling data show FILE`",
        )
    if report.kept == 0:
        raise DataError(
            f"no answer fits into cutoff_len {report.cutoff_len:,}: nothing would be trained on",
            where=f"{account.lengths.total():,} rows of {min(account.lengths):,} to {report.longest:,} tokens",
            fix=_mend(account, report.rows, max_lost_answers),
        )
    if report.lost_answers > max_lost_answers:
        median = _nth_longest(account.lengths, account.lengths.total() - account.lengths.total() // 2 - 1)
        raise DataError(
            f"{report.answers_cut:,} of {report.rows:,} rows ({report.lost_answers:.1%}) lose the end of their answer "
            f"at cutoff_len {report.cutoff_len:,}; at most {max_lost_answers:.1%} may",
            where=f"row lengths in tokens: median {median:,}, longest {report.longest:,}",
            fix=_mend(account, report.rows, max_lost_answers),
        )


def _nth_longest(lengths: Mapping[int, int], n: int) -> int:
    """The length that just n rows exceed or equal before it, counted from the longest: 0 is the longest."""
    passed = 0
    for length in sorted(lengths, reverse=True):
        passed += lengths[length]
        if passed > n:
            return length
    raise AssertionError(f"{n} of {passed} rows")


def _mend(account: Account, rows: int, max_lost_answers: float) -> str:
    """The cutoff that loses no more than allowed, and the one that loses nothing."""
    allowed = min(math.floor(max_lost_answers * rows), account.lengths.total() - 1)
    if account.n_unread > allowed:
        [first] = account.unread
        named = f"{first.source} (at least {first.tokens:,} tokens)"
        more = f" and {account.n_unread - 1:,} more like it" if account.n_unread > 1 else ""
        return f"shorten or take out {named}{more}, or allow the loss with max_lost_answers"
    enough = _nth_longest(account.lengths, allowed)
    if account.unread:
        return f"raise cutoff_len to {enough}, or allow the loss with max_lost_answers"
    keeps_all = f" ({account.longest} keeps every row)" if account.longest > enough else ""
    return f"raise cutoff_len to {enough}{keeps_all}, or allow the loss with max_lost_answers"
