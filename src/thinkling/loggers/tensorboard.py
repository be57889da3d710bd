"""TensorBoard's event files, written without TensorBoard: `tensorboard --logdir runs` shows them.

A file is a chain of records (length, checksum, content, checksum), each content one `Event` message of protocol
buffers. Both formats are public and small, so that neither TensorFlow nor any other package is needed. A run that goes
on writes a further file, which begins by saying from which step on the older ones no longer hold.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), its bits reversed: RFC 3720, appendix B.4."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""How a field of protocol buffers is written."""
# Field numbers of tensorflow/core/util/event.proto and framework/summary.proto.
EVENT_TIME, EVENT_STEP, EVENT_VERSION, EVENT_SUMMARY, EVENT_SESSION = 1, 2, 3, 5, 7
SUMMARY_VALUE, VALUE_TAG, VALUE_NUMBER, SESSION_STATUS, SESSION_STARTS = 1, 1, 2, 1, 1
FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.thinkling")


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = _table()


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def record(content: bytes) -> bytes:
    """One link of the chain."""
    length = struct.pack("<Q", len(content))
    return length + _masked(length) + content + _masked(content)


def _masked(data: bytes) -> bytes:
    # Turned and shifted, so that the checksum of a record that holds a checksum is not a constant.
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, kind: int, content: bytes) -> bytes:
    size = _varint(len(content)) if kind == BYTES else b""
    return _varint(number << 3 | kind) + size + content


def event(wall_time: float, step: int, *what: bytes) -> bytes:
    """An Event with what happened at that step."""
    when = _field(EVENT_TIME, FIXED64, struct.pack("<d", wall_time))
    return when + _field(EVENT_STEP, VARINT, _varint(step)) + b"".join(what)


def summary(metrics: Mapping[str, float]) -> bytes:
    """Numbers by their names; they are kept to 24 bits."""
    values = (
        _field(VALUE_TAG, BYTES, name.encode()) + _field(VALUE_NUMBER, FIXED32, _float32(number))
        for name, number in metrics.items()
    )
    return _field(EVENT_SUMMARY, BYTES, b"".join(_field(SUMMARY_VALUE, BYTES, value) for value in values))


def _float32(number: float) -> bytes:
    try:
        return struct.pack("<f", number)
    except OverflowError:
        return struct.pack("<f", float("inf") if number > 0 else float("-inf"))


def faults() -> tuple[type[BaseException], ...]:
    """Nothing but what a disk refuses, which counts for every logger."""
    return ()


class EventFile:
    """One file that is being written. Every line is handed to the system at once: TensorBoard sees it, a kill leaves
    it."""

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        earlier = [int(found[1]) for file in folder.iterdir() if (found := FILE.fullmatch(file.name))]
        # They are read in the order of their names.
        number = max([int(time.time()), *(seconds + 1 for seconds in earlier)])
        self._file = open(folder / f"events.out.tfevents.{number:010d}.thinkling", "ab", buffering=0)  # noqa: SIM115
        self._write(0, _field(EVENT_VERSION, BYTES, b"brain.Event:2"))
        status = _field(SESSION_STATUS, VARINT, _varint(SESSION_STARTS))
        self._write(first_step, _field(EVENT_SESSION, BYTES, status))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of one step."""
        self._write(step, summary(metrics))

    def close(self) -> None:
        """Nothing is held back."""
        self._file.close()

    def _write(self, step: int, what: bytes) -> None:
        self._file.write(record(event(time.time(), step, what)))


def start(*, folder: Path, name: str, identity: str, settings: Mapping[str, Any], first_step: int) -> EventFile:
    """Write into `folder`; what an older file there says of `first_step` and later no longer holds."""
    return EventFile(folder, first_step)
