"""Tutorials are run when the site is built: py:percent files to pages with pictures.

Each `docs/tutorials/NAME.py` runs as a notebook of its own; an exception in a cell ends
the build. The page shows what was printed, returned and drawn; beside it lies
`NAME.ipynb`, to be downloaded.
"""

import base64
import functools
import os
import tempfile

import jupytext
import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

_SECONDS = 120
# Little is computed and much compiled: this takes half the time, with the same numbers.
_QUICKLY = "--xla_backend_optimization_level=0"


def on_files(files, config):
    """Puts pages and pictures in the place of the tutorials' sources."""
    for file in list(files):
        if file.src_uri.startswith("tutorials/") and file.src_uri.endswith(".py"):
            files.remove(file)
            for uri, content in _made(file.src_uri, file.content_string).items():
                files.append(File.generated(config, uri, content=content))
    return files


@functools.cache  # so that `mkdocs serve` runs what was changed, and that alone
def _made(uri, text):
    """Runs a tutorial; returns the content of each file made of it."""
    stem = uri.removesuffix(".py")
    name = stem.rsplit("/", 1)[-1]
    notebook = jupytext.reads(text, "py:percent")
    with tempfile.TemporaryDirectory() as folder:
        # Files in place of open ports.
        ipc = {"transport": "ipc", "ip": os.path.join(folder, "kernel")}
        client = NotebookClient(
            notebook,
            timeout=_SECONDS,
            kernel_name="python3",
            config=Config(KernelManager=ipc),
            resources={"metadata": {"path": folder}},
        )
        try:
            flags = f"{os.environ.get('XLA_FLAGS', '')} {_QUICKLY}"
            own = {"XLA_FLAGS": flags, "IPYTHONDIR": folder}
            client.execute(env=os.environ | own)
        except CellExecutionError as error:
            raise PluginError(f"{uri} failed:\n{error}") from None
    made = {f"{stem}.ipynb": nbformat.writes(notebook)}
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            for output in cell.outputs:
                shown = _shown(output, name, len(made))
                parts.append(shown)
                if shown.startswith("!["):
                    picture = base64.b64decode(output["data"]["image/png"])
                    made[f"{stem}_{len(made)}.png"] = picture
        else:
            parts.append(cell.source)
    parts.append(f"---\n\n[This page as a notebook]({name}.ipynb)")
    return made | {f"{stem}.md": "\n\n".join(filter(None, parts))}


def _shown(output, name, number):
    """Markdown of one output of a cell; '' for what goes to stderr."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![what the lines above draw]({name}_{number}.png)"
    if output.output_type == "stream" and output.name != "stdout":
        return ""
    text = output.get("text", data.get("text/plain", ""))
    return f"```{{.text .output}}\n{text.rstrip()}\n```"
