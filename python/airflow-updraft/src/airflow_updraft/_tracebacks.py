"""Import errors as a person wants to read them: the user's own frames, with paths as in their project."""

from __future__ import annotations

import re

_FRAME = re.compile(r'  File "(?P<path>[^"]*)", line \d+')


def cut(text: str, roots: tuple[str, ...], outside: tuple[str, ...] = ()) -> str:
    """Leaves out frames of Airflow and libraries, and makes paths relative to the bundle.

    Libraries below a root, as in a project's virtual environment, are in the folders `outside`.
    """
    prefixes = tuple(root.rstrip("/") + "/" for root in roots)
    libraries = tuple(folder.rstrip("/") + "/" for folder in outside)
    head, frames, tail = _split(text)
    paths = {frame: _path(frame) for frame in frames}
    own = [frame for frame in frames if paths[frame].startswith(prefixes) and not paths[frame].startswith(libraries)]
    text = "".join([*head, *(own or frames[-3:]), *tail])
    for prefix in prefixes:
        text = text.replace(prefix, "")
    return text.rstrip() + "\n"


def _split(text: str) -> tuple[list[str], list[str], list[str]]:
    head: list[str] = []
    frames: list[str] = []
    tail: list[str] = []
    for line in text.splitlines(keepends=True):
        if _FRAME.match(line):
            # Of a chain of exceptions the last one matters; what was before it stays as it is.
            head += (frames and tail and [*frames, *tail]) or []
            if tail:
                frames, tail = [], []
            frames.append(line)
        elif frames and not tail and line.startswith("    "):
            frames[-1] += line
        elif frames:
            tail.append(line)
        else:
            head.append(line)
    return head, frames, tail


def _path(frame: str) -> str:
    match = _FRAME.match(frame)
    return match["path"] if match else ""
