"""Token files: what is written is what is read, in any number of chunks, and damage is found."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkling.core.errors import DataError
from thinkling.data import tokens
from thinkling.data.tokens import Chunk, TokenFile, TokenRow, TokenWriter, fault, stored

WEIGHTS = st.sampled_from([0.0, 1.0, 0.5, 2.0])
ROWS = st.lists(
    st.builds(
        lambda pairs, source: TokenRow([t for t, _ in pairs], [w for _, w in pairs], source),
        st.lists(st.tuples(st.integers(0, 2**32 - 1), WEIGHTS), min_size=1, max_size=6),
        st.text(max_size=5),
    ),
    max_size=8,
)


def write(folder: Path, rows: list[TokenRow], each: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with TokenWriter(folder) as writer:
        for low in range(0, len(rows), each):
            writer.add(Chunk.of(rows[low : low + each]))
        writer.close()
    return folder


@given(ROWS)
def test_rows_come_back_as_they_were_written(rows: list[TokenRow]):
    file = stored(rows)
    assert list(file) == rows
    assert len(file) == len(rows)
    assert file.n_tokens == sum(len(row.tokens) for row in rows)
    assert file.n_supervised == sum(row.n_supervised for row in rows)
    places = np.arange(len(rows))
    assert file.lengths(places).tolist() == [len(row.tokens) for row in rows]
    assert file.supervised(places).tolist() == [row.n_supervised for row in rows]


@given(ROWS, st.integers(1, 4))
def test_the_bytes_do_not_depend_on_how_the_rows_come_in_chunks(rows: list[TokenRow], each: int):
    with tempfile.TemporaryDirectory() as folder:
        one, other = write(Path(folder) / "a", rows, each=each), write(Path(folder) / "b", rows, each=8)
        names = [*tokens.COLUMNS, tokens.META, "manifest.json"]
        assert [(one / name).read_bytes() for name in names] == [(other / name).read_bytes() for name in names]


def test_the_digest_names_tokens_and_weights_and_not_the_names_of_rows():
    base = stored([TokenRow([1, 2], [0.0, 1.0], "a"), TokenRow([3], [1.0], "b")]).digest
    assert stored([TokenRow([1, 2], [0.0, 1.0], "x"), TokenRow([3], [1.0], "y")]).digest == base
    others = [
        [TokenRow([1, 4], [0.0, 1.0], "a"), TokenRow([3], [1.0], "b")],
        [TokenRow([1, 2], [0.0, 0.5], "a"), TokenRow([3], [1.0], "b")],
        [TokenRow([1], [0.0], "a"), TokenRow([2, 3], [1.0, 1.0], "b")],
    ]
    assert base not in [stored(rows).digest for rows in others]


def test_pages_that_are_handed_back_come_again_unasked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens, "RELEASE_BYTES", 1)  # after every row
    rows = [TokenRow([n] * 5, [1.0] * 5, f"row {n}") for n in range(20)]
    file = stored(rows)
    assert list(file) == rows == list(file)


def test_more_weights_than_a_byte_can_name_are_refused():
    rows = [TokenRow([1], [n / 1000], f"row {n}") for n in range(257)]
    assert len(stored(rows[:256])) == 256
    with pytest.raises(DataError, match="256 different weights"):
        stored(rows)


@pytest.mark.parametrize("name", [*tokens.COLUMNS, tokens.META])
def test_a_bit_that_has_turned_is_found_in_every_file(tmp_path: Path, name: str):
    folder = write(tmp_path / "a", [TokenRow([1, 2], [0.0, 1.0], "row 1")])
    assert fault(folder) is None
    content = bytearray((folder / name).read_bytes())
    content[0] ^= 1
    (folder / name).write_bytes(bytes(content))
    assert name in (fault(folder) or "")


def test_a_file_that_was_cut_or_is_gone_is_found(tmp_path: Path):
    folder = write(tmp_path / "a", [TokenRow([1, 2], [0.0, 1.0], "row 1")])
    (folder / "tokens.bin").write_bytes((folder / "tokens.bin").read_bytes()[:-1])
    assert fault(folder) == "tokens.bin is not what was written"
    (folder / "tokens.bin").unlink()
    assert fault(folder) == "tokens.bin is missing"


def test_a_file_of_another_version_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens, "VERSION", 2)
    folder = write(tmp_path / "a", [TokenRow([1, 2], [0.0, 1.0], "row 1")])
    monkeypatch.setattr(tokens, "VERSION", 1)
    assert fault(folder) == "it is of version 2, and this program writes 1"


def test_the_format_is_the_one_that_is_documented(tmp_path: Path):
    folder = write(tmp_path / "a", [TokenRow([7, 8, 9], [0.0, 1.0, 1.0], "é"), TokenRow([5, 6], [1.0, 0.5], "b")])
    assert np.fromfile(folder / "tokens.bin", "<u4").tolist() == [7, 8, 9, 5, 6]
    meta = json.loads((folder / "meta.json").read_text())
    codes = np.fromfile(folder / "weights.bin", np.uint8)
    assert [meta["weights"][code] for code in codes] == [0.0, 1.0, 1.0, 1.0, 0.5]
    # Of "b" the first token has no predictor, so one token is learnt.
    assert np.fromfile(folder / "ends.bin", "<u8").reshape(-1, 3).tolist() == [[3, 2, 2], [5, 3, 3]]
    assert (folder / "sources.bin").read_text(encoding="utf-8") == "éb"
    assert (meta["version"], meta["rows"], meta["tokens"], meta["supervised_tokens"], meta["longest"]) == (
        2,
        2,
        5,
        3,
        3,
    )
    assert TokenFile(folder)[-1].source == "b"
