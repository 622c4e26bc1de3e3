"""What annotations name, so that `typing.get_type_hints` can resolve them.

Importing `typing` takes as long as openbrain itself: such modules are imported when somebody asks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as datetime  # noqa: ICN001, PLC0414
    import typing as typing  # noqa: PLC0414
else:

    class _Later:
        """A module that is imported when somebody asks for a name in it."""

        def __init__(self, module: str) -> None:
            self._module = module

        def __getattr__(self, name: str) -> object:
            return getattr(__import__(self._module), name)

    datetime = _Later("datetime")
    typing = _Later("typing")

Path = str | os.PathLike[str]
Bytes = bytes | bytearray | memoryview
Words = str | Sequence[Path]
Limits = Mapping[str, int | float | str]
