"""Which code gives the same DAG each time, so that a second parse to see whether it does would find nothing.

A parse costs as much as another, and most files cannot differ: they import only what is constant and never mention
the clock, chance, the process or files. The rule errs on one side: a name that only looks like one of these costs a
second parse. What it does not see, such as a name put together from strings, is code that hides.
"""

from __future__ import annotations

import dis
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_ROOTS = _words(
    "__future__ abc airflow base64 bisect collections contextlib copy dataclasses datetime dateutil decimal enum",
    "fractions functools hashlib heapq itertools json logging math numbers operator pendulum pprint re string",
    "textwrap types typing typing_extensions warnings zoneinfo",
)

_CHANGING = _words(
    # The clock.
    "now utcnow today yesterday tomorrow days_ago round_time fromtimestamp time monotonic perf_counter process_time",
    "localtime gmtime ctime strftime time_ns local diff_for_humans age is_past is_future",
    # Chance.
    "random randint randrange choice choices sample shuffle uniform gauss betavariate secrets token_hex",
    "token_urlsafe token_bytes uuid uuid1 uuid3 uuid4 uuid5 uuid6 uuid7 urandom getrandbits",
    # The process, and order in it.
    "getpid getppid get_ident gethostname node environ getenv putenv expanduser expandvars getcwd cwd home getuser",
    "id hash set frozenset count cycle",
    # Files.
    "open exists is_file is_dir stat getmtime listdir scandir walk glob rglob iglob iterdir read_text read_bytes",
    # What can come to any of these.
    "eval exec compile getattr globals locals vars dir __import__ import_module __builtins__ popen system",
)

_IMPORT = dis.opmap["IMPORT_NAME"]
_EXTENDED = dis.opmap["EXTENDED_ARG"]


def is_constant(code: CodeType, own: Collection[str]) -> bool:
    """Says so of a module's code; `own` are the names of the project's modules, which are looked at themselves."""
    return all(
        _CHANGING.isdisjoint(part.co_names)
        and all(name in own or name.partition(".")[0] in _ROOTS for name in _imports(part))
        for part in parts(code)
    )


def names_of(modules: Collection[str]) -> set[str]:
    """Gives the names under which modules can be imported, by each other also relatively."""
    parts = [name.split(".") for name in modules]
    return {"", *(".".join(part[start:]) for part in parts for start in range(len(part)))}


def parts(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from parts(constant)


def _imports(code: CodeType) -> Iterator[str]:
    extended = 0
    raw = code.co_code
    for operation, argument in zip(raw[::2], raw[1::2], strict=True):
        argument |= extended << 8
        extended = argument if operation == _EXTENDED else 0
        if operation == _IMPORT:
            yield code.co_names[argument]
