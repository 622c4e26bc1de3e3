"""Values that do not change."""

from __future__ import annotations

from types import MappingProxyType

from .hints import typing

_LONGEST = 60


class Record:
    """Fields that do not change. Equal to a record of the same class with equal fields."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def __init__(self, **fields: typing.Any) -> None:
        if len(fields) > len(self.__match_args__):
            unknown = sorted(fields.keys() - set(self.__match_args__))
            raise TypeError(f"a {type(self).__name__} has no field {', '.join(unknown)}")
        for name in self.__match_args__:
            object.__setattr__(self, name, _freeze(fields[name]))

    def __setattr__(self, name: str, value: object) -> typing.NoReturn:
        raise AttributeError(f"a {type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> typing.NoReturn:
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

    def __reduce__(self) -> tuple[typing.Any, ...]:
        values = (getattr(self, name) for name in self.__match_args__)
        return _restore, (type(self), *(_plain(value) for value in values))

    def to_dict(self) -> dict[str, typing.Any]:
        """The fields, with dicts and lists where there are records in them."""
        return {name: thaw(getattr(self, name)) for name in self.__match_args__}


def short(value: object) -> str:
    """The `repr` of a value, of a long text the beginning and the end."""
    if isinstance(value, str) and len(value) > _LONGEST:
        half = _LONGEST // 2
        return repr(value[:half])[:-1] + "…" + repr(value[-half:])[1:]
    return repr(value)


def thaw(value: typing.Any) -> typing.Any:
    """A copy of a value that may be changed, of what JSON has."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [thaw(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (dict, MappingProxyType)):
        return {name: thaw(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return value


def _restore(kind: type[Record], *values: typing.Any) -> Record:
    record = kind.__new__(kind)
    for name, value in zip(kind.__match_args__, values, strict=True):
        object.__setattr__(record, name, _freeze(value))
    return record


def _freeze(value: typing.Any) -> typing.Any:
    if isinstance(value, list):
        return tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return MappingProxyType(value) if isinstance(value, dict) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _plain(value: typing.Any) -> typing.Any:
    return dict(value) if isinstance(value, MappingProxyType) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
