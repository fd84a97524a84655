"""Official files: fetched from the network, and compared with their checksums."""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import tqdm
from etils import epath

from jaxrobust.data import _archives, _reading
from jaxrobust.runtime import files, reading

_TIMEOUT_S = 30


def fetch(url: str, checksum: str, file: epath.Path) -> None:
    """Downloads `url` to `file` with a progress bar; a file already right is kept.

    Without an answer it is a ConnectionError, with another checksum a ValueError, and
    nothing is left behind.
    """
    if file.exists() and _digest(file, like=checksum) == checksum:
        return
    # Some of the servers refuse Python's own user agent.
    request = urllib.request.Request(url, headers={"User-Agent": "jaxrobust"})
    digest = _hasher(checksum)
    try:
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response,
            files.writing(file) as target,
        ):
            total = getattr(response, "length", None)  # unknown to some servers
            for block in _blocks(response, file.name, total):
                target.write(block)
                digest.update(block)
            if digest.hexdigest() != checksum:
                raise ValueError(
                    f"{url} has {_kind(checksum)} {digest.hexdigest()}, expected "
                    f"{checksum}: the file at this address has changed or the transfer "
                    "was damaged"
                )
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConnectionError(f"cannot fetch {url}: {reason}") from None


def verify(source: os.PathLike[str] | str, checksums: Mapping[str, str]) -> None:
    """Compares an archive, or files of a folder, with their known checksums by name."""
    path = files.expand(source)
    there = [path / f for f in _reading.walk(path)] if path.is_dir() else [path]
    for file in there:
        expected = checksums.get(file.name)
        if expected is None or not file.exists():
            continue
        found = _digest(file, like=expected)
        if found != expected:
            raise ValueError(
                f"checksum of {file}: expected {_kind(expected)} {expected}, found "
                f"{found}.\n"
                "The file is damaged, incomplete or another one of the same name.\n"
                "Fetch it again, or pass --no_verify to use it as it is."
            )


def _digest(file: epath.Path, like: str) -> str:
    """The checksum of a file's content, of the kind of another."""
    digest = _hasher(like)
    title, total = f"verifying {file.name}", file.stat().length
    with reading.opened(file, _archives.MOST_ARCHIVE) as stream:
        for block in _blocks(stream, title, total, leave=False, delay=1):
            digest.update(block)
    return digest.hexdigest()


def _kind(checksum: str) -> str:
    """The name of a checksum in hexadecimal: MD5 has 32 digits, SHA-256 64."""
    return "MD5" if len(checksum) == 32 else "SHA-256"


def _hasher(like: str) -> Any:
    # MD5 only tells damaged files: some publishers record nothing else.
    name = _kind(like).replace("-", "").lower()
    return hashlib.new(name, usedforsecurity=False)


def _blocks(
    stream: Any, title: str, total: int | None, **options: Any
) -> Iterator[bytes]:
    """What a stream holds; in a terminal, with a bar of bytes."""
    options |= {"desc": title, "disable": None}
    with tqdm.tqdm.wrapattr(stream, "read", total, **options) as watched:
        while block := watched.read(1 << 20):
            yield block
