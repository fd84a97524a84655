"""Pages of the site that lie at the root of the repository, and links between files.

Links in Markdown lead from file to file of the repository, so that they work where it
is read as files; on the site they lead to the pages made of them.
"""

import os
import pathlib
import re

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
_FROM_ROOT = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")
_LOADED = re.compile(
    r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*'
)
_LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def on_files(files, config):
    """Adds the pages at the root."""
    for name in _FROM_ROOT:
        path = str(ROOT / name)
        files.append(File.generated(config, name.lower(), abs_src_path=path))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links to files of the repository into links to pages."""
    docs = pathlib.Path(config.docs_dir)
    pages = {ROOT / name: name.lower() for name in _FROM_ROOT}
    pages |= {ROOT / "README.md": "index.md"}
    source = {made: path for path, made in pages.items() if made != "index.md"}
    here = source.get(page.file.src_uri, docs / page.file.src_uri).parent

    def lead(found):
        target = pathlib.Path(os.path.normpath(here / found[2]))
        made = pages.get(target)
        if made is None and target.is_relative_to(docs):
            made = target.relative_to(docs).as_posix()
            if made.startswith("tutorials/"):
                made = (
                    made.removesuffix(".py") + ".md" if made.endswith(".py") else made
                )
        if made is None:
            return found[0]
        to = os.path.relpath(made, pathlib.PurePosixPath(page.file.src_uri).parent)
        return found[1] + to + found[3]

    return _LINK.sub(lead, markdown)


def on_post_page(output, page, config):
    """Ends the build where a page would load anything from the network."""
    found = _LOADED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} needs the network: {found[0]}")
    return output
