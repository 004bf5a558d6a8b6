"""What a repository promises beside its code: licence, versions, CI, links that lead somewhere."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDERS = (ROOT, ROOT / "docs", ROOT / "containers")
PAGES = sorted(page.relative_to(ROOT) for folder in FOLDERS for page in folder.glob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def anchors(page):
    """The page's headings as GitHub writes them into addresses."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    """The targets of the page's links that lead into the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target for target in found if not target.startswith(("https://", "http://"))]


def leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    place = page.parent / path if path else page
    return place.exists() and (not anchor or anchor in anchors(place))


def test_the_pages_have_links_to_check():
    assert sum(len(links(ROOT / page)) for page in PAGES) >= 20


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_to_a_file_and_a_heading(page):
    assert [target for target in links(ROOT / page) if not leads_somewhere(ROOT / page, target)] == []


@pytest.mark.parametrize("target", ["none.md", "page.md#no-such-heading", "#a-comment", "#what-is-it"])
def test_a_link_that_leads_nowhere_is_found_out(tmp_path, target):
    page = tmp_path / "page.md"
    page.write_text(f"# What is it?\n\n[here]({target}), [there](https://example.org)\n```sh\n# a comment\n```\n")
    assert links(page) == [target]
    assert leads_somewhere(page, target) == (target == "#what-is-it")


def test_the_license_is_the_one_that_the_package_names():
    assert PROJECT["license"] == "Apache-2.0"
    assert re.sub(r"\s+", " ", (ROOT / "LICENSE").read_text()).startswith(" Apache License Version 2.0, January 2004")


def test_the_changelogs_first_entry_is_the_packages_version():
    entries = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert entries[0].split()[0] == PROJECT["version"]


def test_the_workflow_lints_and_tests_by_targets_that_the_makefile_has():
    called = [word for step in STEPS for word in re.findall(r"make ([a-z-]+)", step.get("run", ""))]
    assert {"lint", "test"} <= set(called)
    assert set(called) <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def test_the_workflow_has_the_python_that_the_package_asks_for():
    (python,) = [step["with"]["python-version"] for step in STEPS if "setup-python" in step.get("uses", "")]
    assert PROJECT["requires-python"].startswith(f">={python},")


@pytest.mark.parametrize(("tag", "status"), [(f"v{PROJECT['version']}", 0), ("v99.0.0", 1)])
def test_the_workflow_refuses_a_tag_that_is_not_the_versions(tag, status):
    (check,) = [step["run"] for step in STEPS if "tags" in step.get("if", "")]
    assert subprocess.run(check, shell=True, cwd=ROOT, env={"GITHUB_REF_NAME": tag}).returncode == status


def test_ci_names_no_folder_of_one_machine():
    ours = re.findall(r"(?<![\w.}\"*-])/[a-z]+", (ROOT / ".ci" / "run").read_text())
    assert set(ours) <= {"/dev", "/usr", "/var"}
