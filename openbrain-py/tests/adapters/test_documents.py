"""What is written about the adapters does what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel

import openbrain.adapters

MODULES = [module.name for module in pkgutil.iter_modules(openbrain.adapters.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"openbrain.adapters.{name}"))
    assert result.failed == 0
    assert result.attempted > 0
    assert f"| `{name}` |" in (openbrain.adapters.__doc__ or "")


def test_the_programs_of_the_document() -> None:
    """Those marked `py`: the others need nothing but openbrain, and are tried without all this."""
    document = (Path(__file__).parents[3] / "docs/python.md").read_text()
    programs = re.findall(r"```py\n(.*?)```", document, re.DOTALL)
    assert programs
    model = GenericFakeChatModel(messages=iter(()))
    exec(compile("\n".join(programs), "docs/python.md", "exec"), {"model": model})
