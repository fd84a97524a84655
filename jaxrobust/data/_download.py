"""Files from the network, checked against their recorded checksums."""

import http.client
import urllib.request

import tqdm
from etils import epath

from jaxrobust.data import _archives

_TIMEOUT_S = 30


def fetch(url: str, checksum: str, file: epath.Path) -> None:
    """Downloads `url` to `file` with a progress bar; a file already right is kept.

    Raises:
        ConnectionError: the network or the server does not answer.
        ValueError: the content has another checksum; nothing is left behind.
    """
    if file.exists() and _archives.digest(file, like=checksum) == checksum:
        return
    part = file.with_name(file.name + ".part")
    try:
        _transfer(url, part)
        found = _archives.digest(part, like=checksum)
        if found != checksum:
            raise ValueError(
                f"{url} has {_archives.kind(checksum)} {found}, expected {checksum}: "
                "the file at this address has changed or the transfer was damaged"
            )
        part.replace(file)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConnectionError(f"cannot fetch {url}: {reason}") from None
    finally:
        part.unlink(missing_ok=True)


def _transfer(url: str, part: epath.Path) -> None:
    # Some of the servers refuse Python's own user agent.
    request = urllib.request.Request(url, headers={"User-Agent": "jaxrobust"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        part.parent.mkdir(parents=True, exist_ok=True)
        bar = tqdm.tqdm(
            total=getattr(response, "length", None),  # unknown to some servers
            desc=part.stem,
            unit="B",
            unit_scale=True,
            disable=None,
        )
        with bar, part.open("wb") as target:
            while block := response.read(1 << 20):
                target.write(block)
                bar.update(len(block))
