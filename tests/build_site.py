"""Builds the documentation's site without a network.

python tests/build_site.py FOLDER
"""

import pathlib
import socket
import sys

import material  # noqa: F401  What mkdocs.yml names: loaded by name alone.
import mkdocstrings  # noqa: F401
from mkdocs.__main__ import cli

ROOT = pathlib.Path(__file__).parent.parent


def refuse(*address):
    raise OSError(f"The site must need no network. Received: {address[1:]}")


def main(folder: str) -> None:
    socket.socket.connect = refuse
    socket.getaddrinfo = refuse
    config = str(ROOT / "mkdocs.yml")
    cli(["build", "--strict", "--config-file", config, "--site-dir", folder])


if __name__ == "__main__":
    main(sys.argv[1])
