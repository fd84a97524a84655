"""The report as headless Chromium shows it, on a wide and a narrow screen."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from jaxrobust import report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
    # The browser itself would call home.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# The page itself runs no script, so a frame of the wanted width around it measures.
FRAME = """<!doctype html><title>frame</title>
<iframe id="page" src="report.html" width="{width}" height="900" frameborder="0">
</iframe>
<pre id="measured"></pre>
<script>
document.getElementById("page").addEventListener("load", event => {{
  const root = event.target.contentDocument.documentElement;
  const outside = [...root.querySelectorAll("body *")].filter(element =>
    !element.closest(".scroll") && element.getBoundingClientRect().right > {width} + 1
  ).map(element => element.outerHTML.slice(0, 80));
  const images = [...root.querySelectorAll("img")];
  document.getElementById("measured").textContent = JSON.stringify({{
    scrollWidth: root.scrollWidth, clientWidth: root.clientWidth, outside,
    images: images.length, broken: images.filter(i => !i.naturalWidth).length,
    title: root.querySelector("h1").textContent,
    height: root.scrollHeight,
    asked: event.target.contentWindow.performance.getEntriesByType("resource")
      .map(entry => entry.name).filter(name => !name.startsWith("data:")),
  }});
}});
</script>"""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="Chromium is not installed (Debian: chromium)"
)


def browse(url, profile):
    """Loads a page; returns its final DOM and what the browser logged."""
    assert BROWSER
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url]
    # Desktop services are not part of the test.
    environment = os.environ | {"DBUS_SESSION_BUS_ADDRESS": "disabled:"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def measure(folder, profile, width):
    frame = folder / f"frame{width}.html"
    frame.write_text(FRAME.format(width=width))
    dom, messages = browse(frame.as_uri(), profile)
    found = re.search(r'<pre id="measured">(\{.*?\})</pre>', dom, re.DOTALL)
    assert found, dom[-500:]
    return json.loads(html.unescape(found.group(1))), messages


@pytest.mark.parametrize("width", [1280, 420])
def test_fits_the_screen_quietly(full_run, tmp_path_factory, width):
    report.write(full_run)
    profile = tmp_path_factory.mktemp("profile")
    found, messages = measure(full_run, profile, width)
    assert found["scrollWidth"] <= found["clientWidth"]
    assert width - 20 <= found["clientWidth"] <= width  # a scroll bar beside it
    assert found["outside"] == []
    assert found["images"] == 24 + 3 * 4
    assert found["broken"] == 0
    assert found["title"] == "<script>alert(1)</script> & more"
    assert found["height"] > 1000
    assert "CONSOLE" not in messages
    assert found["asked"] == []


def test_faults_are_seen(tmp_path, tmp_path_factory):
    """The test above can fail: a bad page is wide, noisy and asks the network."""
    page = (
        "<h1>x</h1><div style='width:500px'>wide</div>"
        "<img src='http://127.0.0.1:9/x.png'><script>console.error('oh')</script>"
    )
    (tmp_path / "report.html").write_text(page)
    profile = tmp_path_factory.mktemp("profile")
    found, messages = measure(tmp_path, profile, 420)
    assert found["scrollWidth"] > found["clientWidth"]
    assert found["outside"]
    assert found["broken"] == 1
    assert "CONSOLE" in messages
    assert found["asked"] == ["http://127.0.0.1:9/x.png"]
