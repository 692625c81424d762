"""Compiles what the file named first lists, two paths a line: a source and its compiled file; says which it wrote.

The compiled files do not look at their source again: whoever asks has read it. What does not compile, such as a file
for another version of Python, is passed over.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from py_compile import PycInvalidationMode, compile

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as listed:
        sources, compiled = zip(*(line.rstrip("\n").split("\t") for line in listed))
    # Nothing of this file may be needed in another process: it has no name to import it by.
    one = partial(compile, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    with ProcessPoolExecutor() as pool:
        for written in pool.map(one, sources, compiled, chunksize=64):
            if written is not None:
                print(written)
