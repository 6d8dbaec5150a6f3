"""What is published: the wheel, the archive of sources, and their version, a tag of git."""

from __future__ import annotations

import ast
import email
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flashmm"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}


def sources(folder: Path) -> Path:
    """Copy what the metadata are read from, without git."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def version(project: Path) -> str:
    return ProjectMetadata(str(project), PluginManager()).version


def git(project: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *arguments], cwd=project, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of a copy of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    project = sources(folder / "project")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, project / "flashmm", ignore=ignored)
    return zipfile.ZipFile(next(WheelBuilder(str(project)).build(directory=str(folder))))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    kept = {name.split("/", 1)[1] for name in wheel.namelist() if ".dist-info/" in name}
    files = {path for path in PACKAGE.rglob("*") if path.is_file()}
    assert packed == {str(f.relative_to(ROOT)) for f in files if "__pycache__" not in f.parts}
    assert {"flashmm/py.typed", "flashmm/report/templates/report.html.j2"} <= packed
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= kept


def test_the_metadata_say_what_a_registry_shows(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    said = email.message_from_bytes(wheel.read(name))
    assert said["Description-Content-Type"] == "text/markdown"
    assert said["License-Expression"] == "MIT"
    needs = [need for need in said.get_all("Requires-Dist") if "extra ==" not in need]
    assert needs and not [need for need in needs if need.startswith(("snakemake", "mkdocs"))]


def test_a_tag_gives_the_version(tmp_path):
    project = sources(tmp_path / "clone")
    without_git = Version(version(project))
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "Begin")
    untagged = Version(version(project))
    assert without_git.is_devrelease and untagged.is_devrelease
    assert untagged.local.startswith("g") and untagged.release[:2] == without_git.release[:2]
    git(project, "tag", "v0.3.0")
    assert version(project) == "0.3.0"


def test_the_archive_of_sources_remembers_its_version(tmp_path):
    project = sources(tmp_path / "clone")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "Begin")
    git(project, "tag", "v0.3.0")
    packed = next(SdistBuilder(str(project)).build(directory=str(tmp_path)))
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    assert version(tmp_path / "flashmm-0.3.0") == "0.3.0"


def test_continuous_integration_runs_every_version_that_is_promised():
    tested = WORKFLOWS["tests.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    promised = [
        name.rsplit(" ", 1)[1]
        for name in PROJECT["classifiers"]
        if name.startswith("Programming Language :: Python :: 3.")
    ]
    assert tested == promised
    assert PROJECT["requires-python"] == f">={tested[0]}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_jobs_call_what_the_makefile_has_and_may_no_more_than_they_need(name):
    workflow = WORKFLOWS[name]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    called = {match for step in steps for match in re.findall(r"make (\w+)", step.get("run", ""))}
    assert called <= targets
    assert workflow["permissions"] == {"contents": "read"}
    # a version counts commits since the tag: a clone of one commit has neither
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout")]
    assert all(step["with"]["fetch-depth"] == 0 for step in checkouts)


def test_deprecated_names_are_listed():
    """Where the package warns that a name leaves, the page of those names has it."""
    listed = (ROOT / "docs" / "deprecations.md").read_text().split("## Works still")[1]
    names = set(re.findall(r"`(?:\w+\.)?(\w+)\(", listed))
    warning = {
        function.name
        for path in PACKAGE.rglob("*.py")
        if "DeprecationWarning" in (text := path.read_text())
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef) and "DeprecationWarning" in ast.unparse(function)
    }
    assert warning and warning <= names
