"""What annotations name, so that `typing.get_type_hints` can resolve them.

Importing `typing` takes longer than openbrain itself: it is imported when somebody asks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as typing  # noqa: PLC0414
else:

    class _Typing:
        """The module `typing`, once somebody asks for a name in it."""

        def __getattr__(self, name: str) -> object:
            import typing

            return getattr(typing, name)

    typing = _Typing()

Path = str | os.PathLike[str]
Words = str | Sequence[Path]
Limits = Mapping[str, int | float | str]
