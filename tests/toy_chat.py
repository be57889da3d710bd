"""Small tokenizers with real chat templates' habits, for tests: byte-level as Llama and Qwen, word marks as Mistral."""

from __future__ import annotations

import functools
import json

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from thinkling.tokenizer.tokenizer import Tokenizer

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
Be brief.<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

# Llama 3 trims every message and writes the begin-of-text token itself.
LLAMA3 = """{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>

' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>

' }}{% endif %}"""

# Qwen3 keeps the thought of the last answer alone, and gives that one an empty thought where it has none.
QWEN3 = """{% set ns = namespace(last=-1) %}{% for message in messages %}{% if message.role == 'user' %}
{%- set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}
{%- if message.role == 'assistant' %}
{%- set content = message.content %}
{%- set thought = message.reasoning_content if message.reasoning_content is string else '' %}
{%- if not thought and '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last %}{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}
{{- content + '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# Mistral has no special token between question and answer, and refuses roles out of turn.
MISTRAL = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate user/assistant') }}{% endif %}{% if message['role'] == 'user' %}
{{- '[INST] ' + message['content'] + ' [/INST]' }}{% else %}
{{- ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""

# DeepSeek-R1's distilled models open the thought in the prompt and leave it out of the answer.
R1 = """{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|im_start|>' + message['content'] }}
{%- else %}{{ '<|assistant|>' + message['content'].split('</think>')[-1] + '<|im_end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"""

SPECIAL = {
    CHATML: ["<|im_start|>", "<|im_end|>"],
    LLAMA3: ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    QWEN3: ["<|im_start|>", "<|im_end|>"],
    MISTRAL: ["<s>", "</s>"],
    R1: ["<|im_start|>", "<|im_end|>", "<|assistant|>"],
}
NAMED = {
    CHATML: ("<|im_start|>", "<|im_end|>"),
    LLAMA3: ("<|begin_of_text|>", "<|eot_id|>"),
    QWEN3: (None, "<|im_end|>"),
    MISTRAL: ("<s>", "</s>"),
    R1: (None, "<|im_end|>"),
}
TEXT = [
    "system user assistant Be brief. What is 15 - 8? The answer is 7.",
    "hello world, 你好 a b c d e f g\n\n [INST] [/INST]",
]


def files(template: str | None, raw: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> dict[str, bytes]:
    config = {"bos_token": bos, "eos_token": eos, "pad_token": eos, "chat_template": template}
    return {
        "tokenizer.json": raw.to_str().encode(),
        "tokenizer_config.json": json.dumps(
            {key: value for key, value in config.items() if value is not None}
        ).encode(),
    }


@functools.cache
def byte_level(template: str | None) -> Tokenizer:
    """A byte-level tokenizer with this template; pad is end of turn, as in SmolLM2."""
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(TEXT * 3, trainer)
    raw.add_special_tokens(SPECIAL.get(template or "", ["<|im_end|>"]))
    raw.add_tokens(["<think>", "</think>"])
    bos, eos = NAMED.get(template or "", (None, "<|im_end|>"))
    return Tokenizer(files(template, raw, bos, eos), "a toy")


@functools.cache
def word_marked(template: str) -> Tokenizer:
    """A tokenizer that puts a mark for a space before the first word of a text, as SentencePiece does."""
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.decoder = decoders.Metaspace(prepend_scheme="first")
    raw.train_from_iterator(TEXT * 3, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    raw.add_special_tokens(SPECIAL[template])
    return Tokenizer(files(template, raw, *NAMED[template]), "a toy")
