"""Compiles what the file named first lists, two paths a line: a source and its compiled file; says which it wrote.

The compiled files do not look at their source again: whoever asks has read it. What does not compile, such as a file
for another version of Python, is passed over.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from py_compile import PycInvalidationMode, compile


def one(source, compiled):
    try:
        return compile(source, compiled, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    except Exception:
        return None


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as listed:
        sources, compiled = zip(*(line.rstrip("\n").split("\t") for line in listed))
    with ProcessPoolExecutor() as pool:
        for written in pool.map(one, sources, compiled, chunksize=64):
            if written is not None:
                print(written)
