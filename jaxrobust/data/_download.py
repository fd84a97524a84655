"""Files from the network, checked against their recorded checksums."""

import http.client
import urllib.request

from etils import epath

from jaxrobust.data import _archives
from jaxrobust.runtime import files

_TIMEOUT_S = 30


def fetch(url: str, checksum: str, file: epath.Path) -> None:
    """Downloads `url` to `file` with a progress bar; a file already right is kept.

    Raises:
        ConnectionError: the network or the server does not answer.
        ValueError: the content has another checksum; nothing is left behind.
    """
    if file.exists() and _archives.digest(file, like=checksum) == checksum:
        return
    try:
        _transfer(url, checksum, file)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConnectionError(f"cannot fetch {url}: {reason}") from None


def _transfer(url: str, checksum: str, file: epath.Path) -> None:
    # Some of the servers refuse Python's own user agent.
    request = urllib.request.Request(url, headers={"User-Agent": "jaxrobust"})
    digest = _archives.hasher(checksum)
    with (
        urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response,
        files.writing(file) as target,
    ):
        total = getattr(response, "length", None)  # unknown to some servers
        with _archives.byte_bar(file.name, total) as bar:
            while block := response.read(1 << 20):
                target.write(block)
                digest.update(block)
                bar.update(len(block))
        if digest.hexdigest() != checksum:
            raise ValueError(
                f"{url} has {_archives.kind(checksum)} {digest.hexdigest()}, expected "
                f"{checksum}: the file at this address has changed or the transfer "
                "was damaged"
            )
