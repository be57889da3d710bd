"""The one way from messages to tokens: the model's own chat template, for training, evaluation, RL and chat alike.

Three promises. What is trained on is what inference will meet: a conversation is tokenised in pieces that end where the
model starts and stops speaking, so that the tokens before an answer are exactly those of `encode_prompt`. Only the
template writes special tokens: "<|im_end|>" typed by a user stays ten ordinary characters. And a template
that writes a prefix of the conversation in another way than the whole is never guessed at: it is an error, with one
stated way out, `encode_turns`.

How user text is kept from becoming special: every special string inside a message is replaced by one private-use
character before the template runs, and put back, as plain text, when the rendered text is tokenised. Unlike markers
around a message, this survives templates that trim, split or drop parts of it.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from thinkling.core.errors import DataError, ModelError
from thinkling.data.types import Conversation, Message

if TYPE_CHECKING:
    from thinkling.tokenizer.tokenizer import Tokenizer

# Planes 15 and 16 are private use throughout: no script and no emoji lives there.
PRIVATE = range(0xF0000, 0xFFFFD)

MAX_WORK = 5_000_000
"""Turns of loops, calls, and characters of products in one rendering: a second or two. Real templates go through the
messages a few times."""
PROBE = ("Ask-7391.", "Say-5207.")
"""Question and answer that stand in no template, to see what is written after an answer."""


TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the expressions of a template can raise."""


class PrefixError(DataError):
    """The template writes the beginning of a conversation in another way than the whole conversation."""


class _Generation(Extension):
    """`{% generation %}` marks what an assistant says, for other trainers; here it is written as it stands."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_work: ContextVar[int] = ContextVar("_work", default=0)


def _spend(work: int) -> None:
    _work.set(_work.get() + work)
    if _work.get() > MAX_WORK:
        raise SecurityError("it works on without end")


def _counted(items: Iterable[Any]) -> Iterable[Any]:
    if isinstance(items, Sized):
        _spend(len(items))
        return items
    return _counted_one_by_one(items)


def _counted_one_by_one(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend(1)
        yield item


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which keeps a template from the program, with a bound on how long it may go on."""

    intercepted_binops = frozenset({"*", "**"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None)
        return tree

    def call(self, context: Context, called: Any, /, *args: Any, **named: Any) -> Any:
        _spend(1)
        return super().call(context, called, *args, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("it takes powers")
        for many, times in ((left, right), (right, left)):
            if isinstance(many, Sized) and isinstance(times, int):
                _spend(len(many) * times)
        return super().call_binop(context, operator, left, right)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in transformers, whose templates name these arguments."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    # `strftime_now` is left undefined on purpose: a template that writes today's date makes tomorrow's run another one.
    # Templates that ask whether it is defined (Llama 3.1 and later) then write the fixed date of their authors.
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = _to_json
    environment.filters["counted"] = _counted
    try:
        return environment.from_string(template)
    except (jinja2.TemplateSyntaxError, SyntaxError, RecursionError, MemoryError) as error:
        line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else None
        raise ModelError(
            f"the chat template cannot be read: {error}",
            where=f"line {line} of it" if line else "nested deeper than can be read",
            fix="mend chat_template in tokenizer_config.json",
        ) from error


@functools.lru_cache(maxsize=8)
def _specials(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Matches every string that the tokenizer would read as a special token; the longest first."""
    texts = sorted({tokenizer.token_text(i) for i in tokenizer.special_ids} - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


@dataclass(frozen=True)
class _Veil:
    """Special strings that occur in messages, each under a private character."""

    pattern: re.Pattern[str]
    characters: Mapping[str, str]
    """From special string to its character."""

    def cover(self, text: str) -> str:
        return self.pattern.sub(lambda match: self.characters[match[0]], text) if self.characters else text

    def lift(self, text: str) -> str:
        for special, character in self.characters.items():
            text = text.replace(character, special)
        return text

    def hides_in(self, text: str) -> bool:
        return any(character in text for character in self.characters.values())


def _veil(tokenizer: Tokenizer, texts: Sequence[str]) -> _Veil:
    pattern = _specials(tokenizer)
    written = sorted({found for text in texts for found in pattern.findall(text)})
    taken = {character for text in texts for character in text if ord(character) in PRIVATE} if written else set()
    free = (chr(code) for code in PRIVATE if chr(code) not in taken)
    return _Veil(pattern, dict(zip(written, free, strict=False)))


def _as_written(template: str, message: Message, veil: _Veil) -> dict[str, str]:
    """One message as templates know it. A thought goes where the template reads it, or in front as a <think> block."""
    content = message.content
    fields = {"role": message.role}
    if message.reasoning is not None:
        if "reasoning_content" in template:
            fields["reasoning_content"] = veil.cover(message.reasoning)
        else:
            content = f"<think>\n{message.reasoning}\n</think>\n\n{content}"
    return fields | {"content": veil.cover(content)}


def _render(tokenizer: Tokenizer, messages: Sequence[Message], veil: _Veil, *, add_generation_prompt: bool) -> str:
    template = tokenizer.chat_template
    if not template:
        raise ModelError(
            "the model has no chat template, and how it wants to be spoken to cannot be guessed",
            where="tokenizer_config.json and chat_template.jinja of the model folder",
            fix="use the instruct version of the model, or put a chat_template.jinja beside its weights",
        )
    names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    compiled = _compiled(template)
    _work.set(0)
    try:
        return compiled.render(
            messages=[_as_written(template, message, veil) for message in messages],
            tools=None,  # as transformers has them where there are none: some templates ask whether they are none
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **{name: tokenizer.token_text(token) for name, token in names.items() if token is not None},
        )
    except TEMPLATE_ERRORS as error:
        roles = ", ".join(message.role for message in messages)
        raise DataError(
            f"the model's chat template refuses these messages: {error}",
            where=f"a conversation of {roles}",
            fix=_mend(error),
        ) from error


def _mend(error: Exception) -> str:
    if isinstance(error, SecurityError):
        return "use the template that the model's authors give: this one does what no template needs"
    if "strftime_now" in str(error):
        return "write a fixed date in place of strftime_now(...) into the template"
    return "bring the messages into the order the model was trained on, usually user and assistant in turn"


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """The text that the model's template makes of the messages, as a person would read it.

    Raises:
        ModelError: The model has no template, or one that cannot be read.
        DataError: The template refuses the messages.
    """
    veil = _veil(tokenizer, [text for m in messages for text in (m.content, m.reasoning or "")])
    return veil.lift(_render(tokenizer, messages, veil, add_generation_prompt=add_generation_prompt))


def end_of_turn(tokenizer: Tokenizer) -> int | None:
    """The special token that the template writes next after what an assistant has said.

    It is what training teaches the model to say last, whatever the folder's files name as the end. None where there is
    no template, or one that writes no special token there; one that cannot be rendered is told when it is used.
    """
    if not tokenizer.chat_template:
        return None
    question, answer = PROBE
    try:
        text = render(tokenizer, [Message("user", question), Message("assistant", answer)], add_generation_prompt=False)
    except (ModelError, DataError):
        return None
    place = text.rfind(answer)
    found = _specials(tokenizer).search(text, place) if place >= 0 else None
    return tokenizer.token_id(found[0]) if found else None


def _after_end_of_turn(pattern: re.Pattern[str], spoken: str) -> int:
    """Where the last special token in the text of a turn ends.

    Raises:
        ModelError: There is none, and a model trained so would never stop.
    """
    ends = [match.end() for match in pattern.finditer(spoken)]
    if not ends:
        raise ModelError(
            "the chat template writes no end-of-turn token after an assistant's message: the model would never stop",
            where=f"it writes {spoken[-40:]!r}",
            fix="use a template that ends each assistant message with a special token of the tokenizer",
        )
    return ends[-1]


def _spoken(
    tokenizer: Tokenizer, messages: Sequence[Message], veil: _Veil, index: int, text: str, *, is_whole: bool
) -> tuple[int, int]:
    """First character of what the assistant says in message `index` of `text`, and the one after its end-of-turn token.

    `is_whole` says that `text` ends with this message, so that it need not be rendered again.

    Raises:
        PrefixError: The conversation up to there reads otherwise than the beginning of `text`.
    """
    where = f"message {index + 1} of {len(messages)}"
    if index == 0:
        raise DataError(
            "the first message is the assistant's, and there is no prompt that it answers",
            where=where,
            fix="begin each conversation with a system or user message",
        )
    before = _render(tokenizer, messages[:index], veil, add_generation_prompt=True)
    after = text if is_whole else _render(tokenizer, messages[: index + 1], veil, add_generation_prompt=False)
    if not after.startswith(before):
        raise PrefixError(
            "the chat template does not continue its own generation prompt: training would not match inference",
            where=f"{where}; the prompt ends {before[-30:]!r}",
            fix="use the template that the model's authors fine-tune with",
        )
    end = len(before) + _after_end_of_turn(_specials(tokenizer), after[len(before) :])
    if not text.startswith(after[:end]):
        raise PrefixError(
            "the chat template rewrites an earlier answer once the conversation goes on",
            where=where,
            fix="train on one answer a row, as `encode_turns` does",
        )
    return len(before), end


def _encode(tokenizer: Tokenizer, veil: _Veil, text: str) -> list[int]:
    """Tokens of rendered text: special where the template wrote the string, plain text where a message did."""
    if not veil.hides_in(text):
        return tokenizer.encode(text, allow_special=True)
    tokens: list[int] = []
    for piece in _between_specials(veil.pattern, text):
        covered = veil.hides_in(piece)
        tokens += tokenizer.encode(veil.lift(piece), allow_special=not covered)
    return tokens


def _between_specials(pattern: re.Pattern[str], text: str) -> list[str]:
    """The text cut before and after every special token; no piece is empty."""
    cuts = [0, *(place for match in pattern.finditer(text) for place in match.span()), len(text)]
    return [text[low:high] for low, high in itertools.pairwise(cuts) if high > low]


def _encode_within(tokenizer: Tokenizer, veil: _Veil, text: str, low: int, high: int) -> list[int]:
    """Tokens of text[low:high] as a tokenizer gives them that has read what stands before.

    Read again from the last special token on, for tokenizers that treat the beginning of a text in their own way. Where
    the piece would merge with what is before it (an answer that begins with a line break), it is tokenised alone, as
    inference does.

    Raises:
        DataError: Neither reading gives the text back.
    """
    if low == high:
        return []
    context = max((match.start() for match in veil.pattern.finditer(text, 0, low)), default=0)
    if context == low:
        return _encode(tokenizer, veil, text[low:high])
    head = _encode(tokenizer, veil, text[context:low])
    joint = _encode(tokenizer, veil, text[context:high])
    if joint[: len(head)] == head:
        return joint[len(head) :]
    alone = _encode(tokenizer, veil, text[low:high])
    if tokenizer.decode(head + alone, skip_special=False) != tokenizer.decode(joint, skip_special=False):
        raise DataError(
            "the tokenizer cannot keep prompt and answer apart: they share a token",
            where=repr(veil.lift(text[max(low - 20, 0) : low + 20])),
            fix="begin the answer with a letter, a digit or <think>",
        )
    return alone


def _pieces(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool, strict: Container[int]
) -> list[tuple[int | None, list[int]]]:
    """Tokens of the conversation in order, as pieces: (assistant message index, or None for all else; its tokens).

    An assistant message that breaks the prefix promise raises where its index is in `strict`; otherwise it is no piece
    of its own.
    """
    veil = _veil(tokenizer, [text for m in messages for text in (m.content, m.reasoning or "")])
    text = _render(tokenizer, messages, veil, add_generation_prompt=add_generation_prompt)
    pieces: list[tuple[int | None, list[int]]] = []
    done = 0
    for index in [i for i, message in enumerate(messages) if message.role == "assistant"]:
        try:
            is_whole = index == len(messages) - 1 and not add_generation_prompt
            start, end = _spoken(tokenizer, messages, veil, index, text, is_whole=is_whole)
        except PrefixError:
            if index in strict:
                raise
            continue
        assert done <= start <= end, (done, start, end)
        pieces.append((None, _encode_within(tokenizer, veil, text, done, start)))
        pieces.append((index, _encode_within(tokenizer, veil, text, start, end)))
        done = end
    return [*pieces, (None, _encode_within(tokenizer, veil, text, done, len(text)))]


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """What inference feeds: the messages and the template's opening of the assistant's next turn.

    Earlier answers keep the tokens they were trained with, except where the template rewrites them (Qwen3 drops their
    thoughts): those are tokenised as the template now writes them.

    Raises:
        ModelError: The model has no template, or one without an end-of-turn token.
        DataError: The template refuses the messages.
    """
    return [t for _, tokens in _pieces(tokenizer, messages, add_generation_prompt=True, strict=()) for t in tokens]


def encode_conversation(tokenizer: Tokenizer, conversation: Conversation) -> tuple[list[int], list[float]]:
    """Tokens of a conversation and how much the prediction of each counts: (N,) and (N,).

    1.0 on every token of a learnt assistant message from the first one that inference would have to find (which
    includes what the template opens an answer with, such as Qwen3's empty <think> block) to its end-of-turn token; 0.0
    elsewhere, the line break after the end of turn included.

    Raises:
        PrefixError: The template writes some earlier turn otherwise than it did when that turn was the last.
        DataError: The template refuses the messages, or a message is learnt that is not the assistant's.
        ModelError: The model has no template, or one without an end-of-turn token.
    """
    messages = conversation.messages
    learnt: set[int | None] = {index for index in range(len(messages)) if conversation.learns(index)}
    for index in range(len(messages)):
        if index in learnt and messages[index].role != "assistant":
            raise DataError(
                f"message {index + 1} is to be learnt but is from '{messages[index].role}'",
                where=conversation.source,
                fix="only the assistant's messages can be trained on",
            )
    pieces = _pieces(tokenizer, messages, add_generation_prompt=False, strict=range(len(messages)))
    return _weigh(pieces, learnt)


def _weigh(pieces: list[tuple[int | None, list[int]]], learnt: Container[int | None]) -> tuple[list[int], list[float]]:
    tokens = [token for _, piece in pieces for token in piece]
    weights = [1.0 if spoken in learnt else 0.0 for spoken, piece in pieces for _ in piece]
    return tokens, weights


def encode_turns(tokenizer: Tokenizer, conversation: Conversation) -> list[tuple[list[int], list[float]]]:
    """The conversation as one row where the template keeps earlier turns as they were, else one row a learnt answer.

    The rule for templates that rewrite earlier turns: each row is the prompt as inference would feed it at that turn,
    and the answer as the template writes a last answer. Nothing is lost, and the rows of one conversation repeat its
    beginning.

    Raises:
        DataError, ModelError: As `encode_conversation`; PrefixError only where even a single turn has no prefix.
    """
    try:
        return [encode_conversation(tokenizer, conversation)]
    except PrefixError:
        rows = []
        for index, message in enumerate(conversation.messages):
            if message.role == "assistant" and conversation.learns(index):
                turns = conversation.messages[: index + 1]
                rows.append(_weigh(_pieces(tokenizer, turns, add_generation_prompt=False, strict={index}), {index}))
        return rows
