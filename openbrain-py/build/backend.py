"""The build backend of the wheel: maturin's, and the `openbrain` command beside the module.

maturin builds a module or a command, not both. So the command is built first and put where maturin
takes files for the environment's `bin` from.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import maturin
from maturin import (
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

_SCRIPTS = Path("openbrain-py/data/scripts")

_Settings = dict[str, Any] | None


def build_wheel(
    wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None
) -> str:
    """Builds the wheel."""
    _build_command(config_settings)
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None
) -> str:
    """Builds the wheel of `pip install --editable`."""
    _build_command(config_settings)
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: _Settings = None) -> str:
    """Builds the source distribution: the checkout, because the command is built from it too."""
    _empty()
    with tempfile.TemporaryDirectory() as scratch:
        info = maturin.prepare_metadata_for_build_wheel(scratch, config_settings)
        metadata = Path(scratch, info, "METADATA").read_bytes()
    name = info.removesuffix(".dist-info")
    listed = subprocess.run(["git", "ls-files", "-z"], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(Path(sdist_directory, f"{name}.tar.gz"), "w:gz") as archive:
        for file in sorted(listed.decode().split("\0")[:-1]):
            archive.add(file, f"{name}/{file}", recursive=False)
        entry = tarfile.TarInfo(f"{name}/PKG-INFO")
        entry.size = len(metadata)
        archive.addfile(entry, io.BytesIO(metadata))
    return f"{name}.tar.gz"


def _build_command(settings: _Settings) -> None:
    """Builds the command with the profile that the module is built with."""
    _empty()
    arguments = maturin.get_maturin_pep517_args(settings)
    profile = arguments[arguments.index("--profile") + 1] if "--profile" in arguments else "release"
    cargo = os.environ.get("CARGO", "cargo")
    build = [cargo, "build", "--locked", "--package", "openbrain-cli", "--bin", "openbrain"]
    build += ["--profile", profile, "--message-format", "json-render-diagnostics"]
    print("Running", *build, flush=True)  # noqa: T201
    done = subprocess.run(build, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"the `openbrain` command could not be built: cargo said {done.returncode}")
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    (built,) = [message["executable"] for message in messages if message.get("executable")]
    shutil.copy2(built, _SCRIPTS / "openbrain")


def _empty() -> None:
    shutil.rmtree(_SCRIPTS.parent, ignore_errors=True)
    _SCRIPTS.mkdir(parents=True)
