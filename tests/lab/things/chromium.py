# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A headless Chromium with its own libraries and fonts beside it, to look at a page as a person would."""
from __future__ import annotations

from pathlib import Path

from labkit import apt, run
from labkit.cache import entry

PACKAGES: list[str] = []
CACHES = ["chromium with its libraries (600 MB), unpacked"]
FONTS = ["fonts-dejavu-core", "fonts-liberation", "fontconfig-config"]

# --no-sandbox: root's browser has none; it is given files of the tests only.
START = """\
#!/bin/sh
root={root}
export FONTCONFIG_FILE="$root/fonts.conf" HOME="$(mktemp -d)"
trap 'rm -rf "$HOME"' EXIT
LD_LIBRARY_PATH={libraries} "$root/usr/lib/chromium/chromium" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \\
  --hide-scrollbars --user-data-dir="$HOME/profile" "$@"
"""
FONTS_CONF = """\
<?xml version="1.0"?>
<fontconfig><dir>{root}/usr/share/fonts</dir><cachedir>/tmp/reversible-lab-fonts</cachedir>
<alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias></fontconfig>
"""


def chromium() -> Path:
    def build(folder: Path) -> None:
        archive = apt.Archive(apt.architecture())
        root = folder / "root"
        archive.unpack(["chromium", "chromium-common", *FONTS, *apt.libraries(archive.closure("chromium"))], root)
        folders = sorted({path.parent for path in root.glob("**/lib*.so*") if "chromium" not in path.parts})
        (root / "fonts.conf").write_text(FONTS_CONF.format(root=root))
        start = folder / "chromium"
        start.write_text(START.format(root=root, libraries=":".join(map(str, folders))))
        start.chmod(0o755)
        run([start, "--dump-dom", "about:blank"], timeout=120)
    return entry(f"chromium-{apt.codename()}-{apt.architecture()}", build) / "chromium"


THINGS = {"chromium": chromium}
