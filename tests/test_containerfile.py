"""deploy/Containerfile: what the image holds, and as whom it runs."""

import re
import tomllib
from pathlib import Path

from containerfile import every
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
with (ROOT / "pyproject.toml").open("rb") as file:
    PROJECT = tomllib.load(file)["project"]


def test_what_is_copied_is_there_and_no_more_is_than_needed() -> None:
    sources = [source for rest in every("COPY") for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    # Neither runs nor keys that lie beside the code.
    assert set(sources) == {"pyproject.toml", "LICENSE", "README.md", "raygen", "jobs"}


def test_the_image_runs_as_an_ordinary_user_whom_kubernetes_knows_for_one() -> None:
    assert int(every("USER")[-1]) > 0
    [create] = [rest for rest in every("RUN") if "useradd" in rest]
    assert f"--uid {every('USER')[-1]} " in create


def test_the_image_s_versions_come_from_the_project() -> None:
    installs = [rest for rest in every("RUN") if "uv pip install" in rest]
    # A login shell does not know the path of an environment of one's own.
    assert all("--system" in install for install in installs)
    [everything, itself] = installs
    assert "-r pyproject.toml" in everything
    assert set(re.findall(r"--extra (\w+)", everything)) == {"optuna"}
    assert "optuna" in PROJECT["optional-dependencies"]
    # Ray alone is narrowed down, because manifests have to name its version.
    assert re.findall(r'"([^"]*)"', everything) == ["ray==${RAY_VERSION}"]
    assert itself.endswith("--no-deps .")
    [base] = every("FROM")
    python = re.fullmatch(r"python:(\d+\.\d+)-slim", base)
    assert python
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python[1])
