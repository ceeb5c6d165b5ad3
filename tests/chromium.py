"""A browser that a page is shown to."""

import html
import re
import shutil
import subprocess

import pytest


def run_chromium(folder, text, *options):
    """The title that a page has once its scripts have run.

    Fails if there is no browser, or if it has anything to say of the page.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.fail(f"There is no browser: none of {', '.join(names)}.")
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=2000",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            *options,
            path.as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert messages == []
    return html.unescape(re.search("<title>(.*?)</title>", done.stdout)[1])
