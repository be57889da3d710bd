"""The other end of workers.py: reads an `Encoding`, then chunks of conversations, and answers each in turn.

`python -m thinkling.data.worker`, started by workers.py alone. It ends when its standard input does, so when the
process that started it is gone, however it went.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from typing import BinaryIO

from thinkling.core.errors import ThinklingError
from thinkling.data.prepare import Encoding, encode_chunk
from thinkling.tokenizer.tokenizer import Tokenizer


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer (True, result) or (False, error) to every chunk until there are no more."""
    encoding = pickle.load(source)  # noqa: S301  (of our own process)
    assert isinstance(encoding, Encoding), type(encoding)
    tokenizer = Tokenizer(encoding.tokenizer_files, "")
    while True:
        chunk = pickle.load(source)  # noqa: S301
        answer: tuple[bool, object]
        try:
            answer = (True, encode_chunk(chunk, tokenizer, encoding.cutoff_len, encoding.too_long))
        except ThinklingError as error:
            answer = (False, error)
        pickle.dump(answer, sink, protocol=pickle.HIGHEST_PROTOCOL)
        sink.flush()


def own_output() -> BinaryIO:
    """Standard output for the answers alone: whatever else is printed goes to standard error and garbles none."""
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(own, "wb")


if __name__ == "__main__":
    with contextlib.suppress(EOFError, BrokenPipeError), own_output() as sink:
        serve(sys.stdin.buffer, sink)
