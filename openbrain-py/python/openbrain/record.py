"""Values that do not change."""

from __future__ import annotations

from types import MappingProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_LONGEST = 60


class Record:
    """Fields that do not change. Equal to a record of the same class with equal fields."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def __init__(self, **fields: Any) -> None:
        for name in self.__match_args__:
            object.__setattr__(self, name, _freeze(fields[name]))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__match_args__)

    def __hash__(self) -> int:
        return hash(tuple(repr(getattr(self, name)) for name in self.__match_args__))

    def __repr__(self) -> str:
        fields = (f"{name}={short(getattr(self, name))}" for name in self.__match_args__)
        return f"{type(self).__name__}({', '.join(fields)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), Record.to_dict(self))

    def to_dict(self) -> dict[str, Any]:
        """The fields, with dicts and lists where there are records in them."""
        return {name: _thaw(getattr(self, name)) for name in self.__match_args__}


def short(value: object) -> str:
    """The `repr` of a value, of a long text the beginning and the end."""
    if isinstance(value, str) and len(value) > _LONGEST:
        half = _LONGEST // 2
        return repr(value[:half])[:-1] + "…" + repr(value[-half:])[1:]
    return repr(value)


def _restore(kind: type[Record], fields: dict[str, Any]) -> Record:
    return kind(**fields)


def _freeze(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return MappingProxyType(value) if isinstance(value, dict) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _thaw(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_thaw(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return dict(value) if isinstance(value, MappingProxyType) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
