"""Pickles that strangers wrote, read as plain data alone."""

from __future__ import annotations

import base64
import binascii
import io
import pickle
import pickletools
import zlib
from typing import Any

# Opcodes that make numbers, text, lists and dictionaries, or keep and fetch what was made. Tuples
# and sets are not among them: as keys they are hashed, to the bottom of however deep they are.
_PLAIN = {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "MEMOIZE"),
    *("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
}
# What the standard library raises for bytes that are no pickle.
_BROKEN = (ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError)
_KEEPS = {"PUT", "BINPUT", "LONG_BINPUT"}


class _Refused(ValueError):
    """The pickle asks for more than data."""


class _Plain(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        raise _Refused(_refusal(f"{module_name}.{global_name}"))


def _refusal(what: str) -> str:
    return (
        f"a pickle asks for {what}, and only plain data are read: such a file may run any "
        "program when it is opened otherwise, so do not, and get it from its publisher"
    )


def plain_loads(data: bytes) -> Any:
    """The plain data in a pickle.

    Raises ValueError for one that would import, call or build anything else, before anything of it
    is carried out, and for bytes that are no pickle.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in _PLAIN:
                raise _Refused(_refusal(_asked(opcode.name, argument)))
            # Places are numbered from 0 as they come; a large number alone would fill the memory.
            if opcode.name in _KEEPS and int(str(argument)) > len(data):
                raise _Refused(_refusal(f"place {argument}"))
        return _Plain(io.BytesIO(data)).load()
    except _Refused:
        raise
    except (pickle.UnpicklingError, *_BROKEN) as error:
        raise ValueError(f"these {len(data)} bytes are no pickle that is whole: {error}") from None


def _asked(opcode: str, argument: object) -> str:
    return f"{opcode} {argument}" if argument is not None else opcode


def packed_loads(text: str, *, largest: int) -> Any:
    """Plain data in a pickle, packed by zlib and written in base64.

    largest: bytes that it may unpack to. Raises ValueError as `plain_loads`, for a larger one
    before more than that is unpacked, and for text that is not so packed.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, largest)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"a text is not packed by zlib and base64: {error}") from None
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError(
            f"packed data are cut, or unpack to more than {largest} bytes: get the file again from "
            "its publisher"
        )
    return plain_loads(data)
