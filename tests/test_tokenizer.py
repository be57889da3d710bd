"""Tokens and text: what goes in comes out, special tokens are never forged, and transformers reads the same."""

import inspect
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, trainers

from thinkling.core.errors import ModelError
from thinkling.tokenizer.pretokenizers import (
    GGUF_CONTROL,
    KNOWN,
    build_byte_level_bpe,
    known_pretokenizer,
)
from thinkling.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "What is 48 + 48/2? It's 1234567.89, they'll say I'VE lied.",
    "你好，世界！四十八加二十四等于多少？",
    "def f(x):\n\treturn x ** 2  # squares\r\n\r\n    pass\n",
    "  leading and trailing   \n \t \n",
    "emoji 😀👩‍👩‍👧 and accents café naïve ½ Ⅻ ١٢٣",
    "",
    "x" * 50,
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def trained_parts() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE of 400 tokens, taught on `TEXTS`."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    raw.train_from_iterator(TEXTS * 3, trainer)
    model = json.loads(raw.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [" ".join(pair) for pair in model["merges"]]


TOKENS, MERGES = trained_parts()
TYPES = [GGUF_CONTROL if token in SPECIAL else 1 for token in TOKENS]


def write_folder(folder: Path, pre: str = "smollm", **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    build_byte_level_bpe(TOKENS, TYPES, MERGES, KNOWN[pre]).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "clean_up_tokenization_spaces": False,
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_folder(tmp_path_factory.mktemp("tokenizer")))


@given(st.text())
def test_encode_then_decode_is_the_identity(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


@given(st.text(), st.sampled_from(SPECIAL), st.text())
def test_special_tokens_written_in_a_text_are_mere_text(tokenizer, before, special, after):
    tokens = tokenizer.encode(before + special + after)
    assert not tokenizer.special_ids.intersection(tokens)
    assert tokenizer.decode(tokens) == before + special + after


def test_special_tokens_are_read_where_they_are_allowed(tokenizer):
    assert tokenizer.encode("a<|im_end|>", allow_special=True) == [*tokenizer.encode("a"), tokenizer.eos_id]


def test_decoding_leaves_special_tokens_out_unless_asked(tokenizer):
    tokens = [tokenizer.bos_id, *tokenizer.encode("hi"), tokenizer.eos_id]
    assert tokenizer.decode(tokens) == "hi"
    assert tokenizer.decode(tokens, skip_special=False) == "<|im_start|>hi<|im_end|>"


def test_smollm_cuts_numbers_into_digits(tokenizer):
    assert [tokenizer.token_text(number) for number in tokenizer.encode("1234")] == ["1", "2", "3", "4"]


def test_a_token_of_half_a_character_and_an_unknown_one_can_be_shown(tokenizer):
    first_byte = tokenizer.encode("Ж")[0]
    assert tokenizer.token_text(first_byte) == "�"
    assert tokenizer.token_text(10**6) == "<1000000>"


def test_pad_stays_what_the_folder_says_even_when_it_is_the_end_token(tokenizer):
    assert tokenizer.pad_id == tokenizer.eos_id == 2
    assert tokenizer.bos_id == 1


def test_a_folder_that_names_no_special_tokens_has_none(tmp_path):
    folder = write_folder(tmp_path, bos_token=None, eos_token=None, pad_token=None)
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.stop_ids) == (None, None, None, ())


def test_generation_stops_at_the_end_token_and_at_those_of_generation_config(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    assert Tokenizer.load(folder).stop_ids == (2, 0)


def test_the_template_file_wins_over_the_one_in_the_settings(tmp_path):
    folder = write_folder(tmp_path, chat_template="old")
    assert Tokenizer.load(folder).chat_template == "old"
    (folder / "chat_template.jinja").write_text("new", encoding="utf-8")
    assert Tokenizer.load(folder).chat_template == "new"


def test_of_several_named_templates_the_default_one_is_taken(tmp_path):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    assert Tokenizer.load(write_folder(tmp_path, chat_template=named)).chat_template == "plain"


def test_saving_gives_the_same_bytes_again(tmp_path):
    folder = write_folder(tmp_path / "first", chat_template="{{ messages }}")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    Tokenizer.load(folder).save(tmp_path / "second")
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "second").iterdir()
    }


def test_truncation_and_padding_left_in_the_file_by_another_program_are_not_carried_out(tmp_path):
    folder = write_folder(tmp_path)
    raw = RawTokenizer.from_file(str(folder / "tokenizer.json"))
    raw.enable_truncation(2)
    raw.enable_padding(length=9)
    raw.save(str(folder / "tokenizer.json"))
    assert len(Tokenizer.load(folder).encode("1234")) == 4


@pytest.mark.parametrize("damage", [b"", b"{", b'{"model": 3}', b"\xff\xfe"])
def test_a_damaged_tokenizer_file_is_an_error_that_names_it(tmp_path, damage):
    folder = write_folder(tmp_path)
    (folder / "tokenizer.json").write_bytes(damage)
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged"):
        Tokenizer.load(folder)


def test_a_damaged_settings_file_is_an_error_that_names_it(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "tokenizer_config.json").write_bytes(b"[1, 2]")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is damaged"):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"eos_token": 5},
        {"pad_token": ["<|im_end|>"]},
        {"bos_token": {"content": 1}},
        {"chat_template": 5},
        {"chat_template": [{"name": "default", "template": 5}]},
    ],
    ids=str,
)
def test_settings_of_the_wrong_kind_are_an_error_that_names_the_file(tmp_path, config):
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is damaged"):
        Tokenizer.load(write_folder(tmp_path, **config))


@pytest.mark.parametrize("template", [[1, 2], [{"template": "no name"}], []])
def test_a_list_of_templates_without_a_default_is_no_template(tmp_path, template):
    assert Tokenizer.load(write_folder(tmp_path, chat_template=template)).chat_template is None


@pytest.mark.parametrize("end", ["<|im_end|>", [2, "x"], {"a": 1}, [[2]], 2.5])
def test_an_end_token_that_is_no_number_is_an_error_that_names_the_file(tmp_path, end):
    folder = write_folder(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    with pytest.raises(ModelError, match=r"generation_config\.json is damaged"):
        Tokenizer.load(folder)


def test_a_template_file_that_is_no_text_is_an_error_that_names_it(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"chat_template\.jinja is damaged"):
        Tokenizer.load(folder)


def test_a_folder_without_tokenizer_json_says_how_to_get_one(tmp_path):
    with pytest.raises(ModelError) as error:
        Tokenizer.load(tmp_path)
    assert "AutoTokenizer" in error.value.fix


def test_an_unknown_pretokeniser_is_refused_by_name():
    with pytest.raises(ModelError, match="'deepseek-coder'"):
        known_pretokenizer("deepseek-coder", "somewhere")


# transformers is the oracle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", sorted(KNOWN))
def test_transformers_loads_the_same_tokenizer(tmp_path, pre):
    from transformers import AutoTokenizer

    folder = write_folder(tmp_path, pre)
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, "<|im_start|>user\n12<|im_end|>"]:
        tokens = ours.encode(text, allow_special=True)
        assert theirs.encode(text, add_special_tokens=False) == tokens
        assert theirs.decode(tokens) == ours.decode(tokens, skip_special=False)


def random_texts(n: int) -> list[str]:
    """Mixtures of the characters at which pre-tokenisers differ."""
    rng = random.Random(0)
    pieces = [
        "'s",
        "'LL",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "a",
        "Ab",
        "é",
        "é",
        "你好",
        "7",
        "123456",
        "½",
        "!",
        "...",
        "😀",
        "_",
    ]
    return ["".join(rng.choices(pieces, k=12)) for _ in range(n)]


def oracle(pre: str) -> object:
    """The tokenizer that transformers itself builds for the family of `pre` from the same vocabulary and merges."""
    from transformers import GPT2Tokenizer, Qwen2Tokenizer

    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    pairs = [tuple(merge.split(" ")) for merge in MERGES]
    kind = {"gpt-2": GPT2Tokenizer, "qwen2": Qwen2Tokenizer}[pre]
    return kind(vocab=vocabulary, merges=pairs)


@pytest.mark.parametrize("pre", ["gpt-2", "qwen2"])
def test_a_pretokeniser_cuts_as_the_family_in_transformers_does(pre):
    ours, theirs = build_byte_level_bpe(TOKENS, TYPES, MERGES, KNOWN[pre]), oracle(pre)
    for text in TEXTS + random_texts(200):
        assert ours.encode(text).ids == theirs.encode(text, add_special_tokens=False), text


def test_llama_bpe_has_the_expression_that_transformers_has_for_llama_3():
    from transformers.convert_slow_tokenizer import TikTokenConverter

    assert KNOWN["llama-bpe"].split == inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default


def test_llama_bpe_takes_a_piece_that_is_a_token_whole_whatever_the_merges_say():
    # "abc" is a token, and no merge leads to it: without the exception it would come out as three.
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "abc"]
    built = build_byte_level_bpe(tokens, [1] * len(tokens), [], KNOWN["llama-bpe"])
    assert built.encode("abc").tokens == ["abc"]


def test_a_first_token_stands_before_what_other_programs_encode_and_not_before_ours(tmp_path):
    folder = write_folder(tmp_path)
    built = build_byte_level_bpe(TOKENS, TYPES, MERGES, KNOWN["smollm"], first="<|im_start|>")
    built.save(str(folder / "tokenizer.json"))
    assert built.encode("a").ids[0] == 1
    assert Tokenizer.load(folder).encode("a") == built.encode("a").ids[1:]
