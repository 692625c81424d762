"""Fetches uv's wheel without pip, which a plain Debian does not have.

usage: fetch_uv.py FOLDER. Leaves FOLDER/uv. Exit code 3: no index in reach.
"""

import hashlib
import html
import os
import platform
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile

NAMES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
INDEX = next((os.environ[name] for name in NAMES if os.environ.get(name)), "https://pypi.org/simple")
MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "arm64"}


def get(url):
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(
        urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    )
    if parts.username:
        import base64

        secret = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(secret.encode()).decode())
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read(), response.url


def fits(name):
    if not name.startswith("uv-") or not name.endswith(".whl"):
        return False
    machine = MACHINES.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "darwin":
        return "macosx" in name and ("universal2" in name or machine in name)
    machine = "aarch64" if machine == "arm64" else machine
    if machine not in name:
        return False
    libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    return libc in name


def version(name):
    return tuple(int(part) for part in re.findall(r"\d+", name.split("-")[1]))


def main():
    try:
        page, base = get(INDEX.rstrip("/") + "/uv/")
        links = re.findall(r'<a[^>]*href="([^"]+)"', page.decode())
        wheels = {}
        for link in links:
            url = urllib.parse.urljoin(base, html.unescape(link))
            name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
            if fits(name) and re.fullmatch(r"[0-9.]+", name.split("-")[1]):
                wheels[name] = url
        if not wheels:
            sys.exit("the package index has no uv for this machine")
        name = max(wheels, key=version)
        url, _, fragment = wheels[name].partition("#")
        content, _ = get(url)
    except (urllib.error.URLError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    algorithm, _, digest = fragment.partition("=")
    if algorithm != "sha256" or hashlib.sha256(content).hexdigest() != digest:
        sys.exit("uv's wheel does not have the digest that the package index names")
    wheel = os.path.join(sys.argv[1], "uv.whl")
    with open(wheel, "wb") as file:
        file.write(content)
    with zipfile.ZipFile(wheel) as archive:
        member = next(n for n in archive.namelist() if re.fullmatch(r"uv-[^/]+\.data/scripts/uv", n))
        with open(os.path.join(sys.argv[1], "uv"), "wb") as file:
            file.write(archive.read(member))


main()
