"""A page as it is read."""

import re

from jaxrobust import report


def read(folder):
    """Writes the page of a work directory; its words without the links to terms."""
    text = report.write(folder).read_text()
    return re.sub(r'<a [^>]*class="term">(.*?)</a>', r"\1", text)
