"""The locks hold what pyproject.toml asks for, by hash, and no file of them names a host.

That each side installs and starts from its own lock alone is shown by .ci/run, which may use the
network.
"""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BASE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]

EDGE = [
    requirement
    for extra in ("edge", "edge-nfc", "edge-kiosk", "edge-gpio")
    for requirement in EXTRAS[extra]
    if not requirement.startswith("shuaka[")
]

LOCKS = {
    "requirements-edge.lock": [*BASE, *EDGE],
    "requirements-hub.lock": [*BASE, *EXTRAS["hub"]],
    "requirements-dev.lock": [
        *BASE,
        *EDGE,
        *EXTRAS["hub"],
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["build-system"]["requires"],
    ],
    "requirements-npm.lock": PROJECT["dependency-groups"]["npm"],
}


def locked(name: str) -> dict[str, tuple[Version, int]]:
    """Of each package in a lock: its version and how many hashes it may have."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE):
        if start := re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", block):
            hashes = len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block))
            found[canonicalize_name(start[1])] = (Version(start[2]), hashes)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_satisfies_pyproject(name: str) -> None:
    packages = locked(name)
    for text in LOCKS[name]:
        requirement = Requirement(text)
        key = canonicalize_name(requirement.name)
        assert key in packages, f"{name} lacks {text}: regenerate it (CONTRIBUTING)"
        version, _ = packages[key]
        assert version in requirement.specifier, f"{name} has {key} {version}, not {text}"


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_its_hashes(name: str) -> None:
    packages = locked(name)
    assert len(packages) >= len(LOCKS[name])
    assert [key for key, (_, hashes) in packages.items() if not hashes] == []


def test_the_locks_agree_with_each_other() -> None:
    everything = locked("requirements-dev.lock")
    for name in ("requirements-edge.lock", "requirements-hub.lock"):
        assert {
            key: (version, everything[key][0])
            for key, (version, _) in locked(name).items()
            if everything[key][0] != version
        } == {}


def test_the_edge_lock_has_no_server_framework() -> None:
    assert not {"fastapi", "pydantic", "sqlalchemy"} & set(locked("requirements-edge.lock"))
    assert "pyscard" not in locked("requirements-hub.lock")


def test_no_lock_or_package_setting_names_a_host() -> None:
    files = [*ROOT.glob("*.lock"), ROOT / "pyproject.toml", *ROOT.glob(".npmrc")]
    files += [*ROOT.glob("package*.json"), ROOT / "bin/setup", ROOT / ".ci/run"]
    assert len(files) == 10
    for path in files:
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"\w+://\S+|--(?:extra-)?index-url|--find-links|\bregistry\s*=", text)
        assert found == [], f"{path.name} names {found}"


def test_the_lock_of_npm_holds_what_package_json_asks_for_by_hash() -> None:
    asked = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    packages = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    for name, version in {**asked["dependencies"], **asked["devDependencies"]}.items():
        assert packages[f"node_modules/{name}"]["version"] == version
    for name, package in packages.items():
        if name:
            assert package["integrity"].startswith("sha512-"), name
            assert "resolved" not in package, "`npm install` with the .npmrc of this project"


def test_the_browser_packages_are_where_the_wheel_takes_them_from() -> None:
    vendor = ROOT / "hub/web/static/vendor"
    assert {path.name for path in vendor.iterdir()} == {"htmx.min.js", "hx-sse.min.js"}
    assert "/hub/web/static/vendor/" in (ROOT / ".gitignore").read_text(encoding="utf-8")
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["artifacts"] == [
        "hub/web/static/vendor/*"
    ]
