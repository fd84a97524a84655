"""Files from the network, checked against their recorded SHA-256."""

import http.client
import urllib.request

import tqdm
from etils import epath

from jaxrobust.data import _archives

_TIMEOUT_S = 30


def fetch(url: str, file: epath.Path, sha256: str, size: int) -> None:
    """Downloads `url` to `file` with a progress bar; a file already right is kept.

    Raises:
        ConnectionError: the network or the server does not answer.
        ValueError: the content has another SHA-256; nothing is left behind.
    """
    if file.exists() and _archives.sha256(file) == sha256:
        return
    part = file.with_name(file.name + ".part")
    try:
        _transfer(url, part, size)
        found = _archives.sha256(part)
        if found != sha256:
            raise ValueError(
                f"{url} has SHA-256 {found}, expected {sha256}: the file at this "
                "address has changed or the transfer was damaged"
            )
        part.replace(file)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConnectionError(f"cannot fetch {url}: {reason}") from None
    finally:
        part.unlink(missing_ok=True)


def _transfer(url: str, part: epath.Path, size: int) -> None:
    # Some of the servers refuse Python's own user agent.
    request = urllib.request.Request(url, headers={"User-Agent": "jaxrobust"})
    bar = tqdm.tqdm(total=size, desc=part.stem, unit="B", unit_scale=True, disable=None)
    with bar, urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as target:
            while block := response.read(1 << 20):
                target.write(block)
                bar.update(len(block))
