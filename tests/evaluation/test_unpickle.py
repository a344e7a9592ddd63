"""Pickles of strangers: plain data or a sentence, and nothing of them is ever carried out."""

from __future__ import annotations

import base64
import collections
import datetime
import os
import pickle
import tracemalloc
import zlib
from pathlib import Path

import pytest

from tandem.evaluation.unpickle import packed_loads, plain_loads

PLAIN = [
    *(None, True, 0, -1, 255, 2**40, -(2**200), 1.5, float("-inf"), "", "aä\n\U0001f600", b"\x00"),
    *([], [1, [2, "x"]], {}, {"a": [1], 2: [None]}),
    *(["same"] * 300, "x" * 70_000, list(range(3000))),
]
# Hashed as keys, to the bottom of however deep they are.
HASHED = [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {2: (None,)}, set(), {1, 2}, frozenset({1})]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol_are_read(protocol: int) -> None:
    for value in PLAIN:
        # Before protocol 3 bytes are written as calls.
        called = isinstance(value, bytes) and protocol < 3
        data = pickle.dumps(value, protocol)
        if called:
            with pytest.raises(ValueError, match="only plain data are read"):
                plain_loads(data)
        else:
            assert plain_loads(data) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_tuples_and_sets_are_refused(protocol: int) -> None:
    for value in HASHED:
        with pytest.raises(ValueError, match="only plain data are read"):
            plain_loads(pickle.dumps(value, protocol))


def test_a_key_of_any_depth_is_refused_before_it_is_hashed() -> None:
    deep = b"\x80\x04})" + b"\x85" * 400_000 + b"Ns."
    doubled = b"\x80\x04})" + b"\x94h\x00\x86" * 45 + b"Ns."
    for data in (deep, doubled):
        with pytest.raises(ValueError, match="only plain data are read"):
            plain_loads(data)
    nested = pickle.dumps([], 4)[:-1].replace(b"]", b"]" * 100_000, 1)
    nested = nested[:-1] if nested.endswith(b"\x94") else nested
    assert isinstance(plain_loads(nested + b"a" * 99_999 + b"."), list)


class Strikes:
    """Unpickled by `pickle`, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_is_refused_and_calls_nothing(protocol: int, tmp_path: Path) -> None:
    struck = tmp_path / "struck"
    for value in (Strikes(struck), ["tests", Strikes(struck)], {"a": (Strikes(struck),)}):
        with pytest.raises(ValueError, match="only plain data are read"):
            plain_loads(pickle.dumps(value, protocol))
    assert not struck.exists()
    pickle.loads(pickle.dumps(Strikes(struck), protocol))
    assert struck.exists()


@pytest.mark.parametrize(
    "value",
    [
        *(collections.OrderedDict(a=1), datetime.date(2025, 1, 1), Path("x"), 1 + 2j, len),
        bytearray(b"x"),
    ],
    ids=repr,
)
def test_harmless_objects_are_refused_too(value: object) -> None:
    with pytest.raises(ValueError, match="only plain data are read"):
        plain_loads(pickle.dumps(value))


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02Pname\n.",
        b"\x80\x02U\x01xQ.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02}}b.",
        b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00x.",
        b"\x80\x05\x97.",
    ],
    ids=[
        *("GLOBAL", "INST", "OBJ", "EXT1", "PERSID", "BINPERSID", "STACK_GLOBAL", "BUILD"),
        *("BYTEARRAY8", "NEXT_BUFFER"),
    ],
)
def test_every_opcode_that_reaches_outside_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="only plain data are read"):
        plain_loads(data)


def test_a_place_far_away_does_not_fill_the_memory() -> None:
    with pytest.raises(ValueError, match="only plain data are read"):
        plain_loads(b"\x80\x02Nr\xff\xff\xff\x7f.")


@pytest.mark.parametrize(
    "data", [b"", b".", b"N", b"\x80\x04]", b"h\x05.", b"garbage", b"\x80\x02K", b"0.", b"((."]
)
def test_what_is_no_pickle_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(ValueError, match="bytes are no pickle that is whole"):
        plain_loads(data)


def pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def test_packed_data_are_read() -> None:
    assert packed_loads(pack(pickle.dumps("[1, 2]")), largest=100) == "[1, 2]"


def test_a_bomb_is_not_unpacked_beyond_its_limit() -> None:
    packed = pack(pickle.dumps("x" * 200_000_000))
    assert len(packed) < 300_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="unpack to more than 1000000 bytes"):
        packed_loads(packed, largest=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no base64!", "not packed"),
        (base64.b64encode(b"no zlib").decode(), "not packed"),
        (base64.b64encode(zlib.compress(b"cut off" * 99)[:-9]).decode(), "are cut"),
        (pack(b"no pickle"), "pickle"),
    ],
)
def test_text_that_is_not_so_packed_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        packed_loads(text, largest=1000)
