"""What is written somewhere, as bytes."""

from __future__ import annotations

from .errors import InvalidRequestError
from .hints import Bytes


def content(data: Bytes | str, what: str = "what is written is bytes or a text") -> bytes:
    """The bytes; a text as UTF-8.

    A number is none: Python would make as many zeros of it.
    """
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError("a text has a surrogate, which UTF-8 cannot hold") from None
    if isinstance(data, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return bytes(data)
    raise TypeError(f"{what}, not {type(data).__name__}")
