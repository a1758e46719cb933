"""What the README tells people to type works, as it stands there."""

import re
import shlex
import tomllib

import pytest
from helpers import ROOT, python

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = dict(re.findall(r"<!-- command: ([^>]+) -->\n```sh\n(.*?)\n```", README, re.DOTALL))
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
CODE = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_it_has_the_two_commands():
    assert COMMANDS.keys() == {"main job", "test"}
    assert README.index("<!-- command: test -->") < README.index("\n## "), "on the first screen"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_command_is_one_line_that_needs_only_python_and_pip(command):
    steps = [shlex.split(step) for step in command.split("&&")]
    assert "\n" not in command
    assert steps[0] == ["python3", "-m", "venv", ".venv"]
    assert all(step[0].startswith(".venv/bin/") for step in steps[1:])
    assert steps[1][:2] == [".venv/bin/pip", "install"]
    extras = re.findall(r"\.\[(.*?)\]", command)
    assert set(",".join(extras).split(",")) - {""} <= PROJECT["optional-dependencies"].keys()


def test_main_job_is_a_command_that_exists():
    script, *arguments = shlex.split(COMMANDS["main job"].split("&&")[-1])
    name = script.removeprefix(".venv/bin/")
    assert PROJECT["scripts"].keys() == {name}
    assert arguments[0] in python("-m", name, "--help")
    python("-m", name, arguments[0], "--help")


@pytest.mark.parametrize("code", CODE, ids=[f"block{i}" for i in range(len(CODE))])
def test_code_runs(code, tmp_path):
    python("-W", "error", "-c", code, cwd=tmp_path)


@pytest.mark.slow
def test_the_tutorial_simulates_a_network(tmp_path):
    section = TUTORIAL.split("## Simulating a network")[1]
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE))
    assert code.count("network.simulate(") == 2
    python("-W", "error", "-c", code, cwd=tmp_path)


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target
