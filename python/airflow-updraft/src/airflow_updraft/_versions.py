"""Version strings (`sha256:<hex>`) and the folders that hold them (`versions/sha256-<hex>`)."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = re.compile(r"sha256:[0-9a-f]{64}")
_FOLDER = re.compile(r"sha256-[0-9a-f]{64}")


class BadVersionError(ValueError):
    """Raised for a string that does not name a bundle version."""


def check(version: str) -> str:
    # Versions come back from Airflow's database and become part of a path.
    if not _VERSION.fullmatch(version):
        raise BadVersionError(f"{version!r} is not a bundle version; expected `sha256:` and 64 hex digits")
    return version


def folder(root: Path, version: str) -> Path:
    return root / "versions" / check(version).replace(":", "-")


def live(root: Path) -> str | None:
    """Reads which version the `current` link names; None before the first deploy."""
    try:
        name = os.path.basename(os.readlink(root / "current"))
    except FileNotFoundError:
        return None
    if not _FOLDER.fullmatch(name):
        raise BadVersionError(f"`{root / 'current'}` points at `{name}`, which is not a bundle version")
    return name.replace("-", ":", 1)
