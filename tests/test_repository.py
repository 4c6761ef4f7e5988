"""What holds for the repository as a whole: one order of steps in three places, make targets, and nothing that belongs to one machine."""

import ast
import importlib
import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOW = ROOT / "flows" / "seasonal_training.py"
BINARY = {".png", ".jpg", ".parquet", ".onnx", ".zip", ".xlsx", ".npz", ".gz", ".ico", ".woff2"}
CORE = ("sources", "features", "forecasting", "lightning_modules", "expectations", "evaluation", "serving")


def committed_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file() and path.suffix not in BINARY]


def diagram_steps() -> list[str]:
    """Names down the README's diagram, without where it starts."""
    block = next(
        text for text in re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL) if "ingest" in text
    )
    return re.findall(r"^ (\w+)(?: {2,}.*)?$", block, re.MULTILINE)


def flow_calls() -> list[str]:
    """Functions of `tasks/` that the flow calls, in the order of its lines."""
    tree = ast.parse(FLOW.read_text(encoding="utf-8"))
    steps = {
        name.asname or name.name for node in tree.body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tasks.") for name in node.names
    }
    body = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "seasonal_training")
    calls = [node for node in ast.walk(body) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in steps - {"store_of"}]
    return [call.func.id for call in sorted(calls, key=lambda call: call.lineno) if isinstance(call.func, ast.Name)]


def test_diagram_flow_and_task_names_are_the_same_words_in_the_same_order():
    from flows import seasonal_training

    names = [getattr(seasonal_training, call).name for call in flow_calls()]
    assert len(names) == len(set(names)) >= 13
    assert diagram_steps() == names


def test_flow_has_no_loop_and_handles_no_file():
    body = ast.parse(FLOW.read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(body) if isinstance(node, ast.For | ast.While | ast.ListComp | ast.DictComp | ast.GeneratorExp)]
    assert not {"open", "read_text", "write_text", "read_parquet"} & {node.attr for node in ast.walk(body) if isinstance(node, ast.Attribute)}


def test_every_step_of_the_flow_lives_in_a_file_of_its_own():
    tree = ast.parse(FLOW.read_text(encoding="utf-8"))
    places = {
        alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tasks.") for alias in node.names
    }
    steps = [step for step in flow_calls() if step != "find_champion"]  # a look-up that belongs to `evaluate`
    assert [places[step] for step in steps] == [f"tasks.{step}" for step in steps]


def core_imports(file: Path) -> set[str]:
    """Files of the core that a file imports, as `folder/name.py`."""
    modules = {node.module for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom) and node.module}
    return {f"{module.replace('.', '/')}.py" for module in modules if module.split(".")[0] in CORE}


@pytest.mark.parametrize("step", sorted(path.stem for path in (ROOT / "tasks").glob("*.py") if "**reusable(" in path.read_text(encoding="utf-8")))
def test_reuse_of_a_step_looks_at_all_the_source_it_runs(step: str):
    """Each file of the core that it imports lies in a folder it names, or is named itself together with all that this file imports."""
    declared = set(importlib.import_module(f"tasks.{step}").CODE)
    waiting = [ROOT / "tasks" / f"{step}.py"]
    looked_at: set[str] = set()
    while waiting:
        looked_at |= (files := {path for path in core_imports(waiting.pop()) if path not in looked_at})
        assert [path for path in files if path.split("/")[0] not in declared and path not in declared] == []
        waiting += [ROOT / path for path in files if path in declared]


def test_no_committed_file_names_a_machine_or_an_index():
    # Written in pieces, so that this file does not hold what it looks for.
    machine = re.compile("(?<![\\w.])/(?:" + "|".join(["work", "root", "home/[a-z]", "tmp"]) + ")/")
    index = re.compile(
        "|".join(
            ["--" + "index-url", "--extra-" + "index", "--find-" + "links", "pip" + r"\.conf", "artifact" + "ory", "session " + "helper", "sub" + "agent"]
        ),
        re.IGNORECASE,
    )
    found = []
    for path in committed_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if machine.search(line) or index.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_constraints_are_plain_pins_and_cover_every_dependency():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!]+", line)] == []
    pinned = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert len(pinned) == len(set(pinned))
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", text)[0]).lower() for text in asked}
    assert names - set(pinned) == set()


class TestMake:
    """The Makefile's logic, seen through `make -n` in a folder of its own: nothing is installed."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        for name in ("Makefile", "constraints.txt", "pyproject.toml"):
            shutil.copy2(ROOT / name, tmp_path / name)
        return tmp_path

    @staticmethod
    def make(checkout: Path, *words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        return subprocess.run(["make", *words], cwd=checkout, capture_output=True, text=True, check=True, env=environment).stdout

    def test_help_is_the_default_and_lists_every_target(self, checkout: Path):
        shown = self.make(checkout)
        targets = set(re.findall(r"^  make (\S+) +\S", shown, re.MULTILINE))
        declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert declared is not None
        assert targets == set(declared[1].split())
        assert targets >= {"help", "demo", "test", "check", "bench", "ui"}

    @pytest.mark.parametrize(("target", "last"), [("demo", "perennial demo"), ("test", "pytest")])
    def test_first_call_makes_the_environment_torch_first_and_goes_on(self, checkout: Path, target: str, last: str):
        steps = self.make(checkout, "-n", target)
        order = [steps.index("-m venv .venv"), steps.index("grep '^torch=='"), steps.index("-c constraints.txt"), steps.rindex(last)]
        assert all(before < after for before, after in pairwise(order))
        assert steps.rstrip().endswith(last)

    def test_second_call_installs_nothing(self, checkout: Path):
        (checkout / ".venv").mkdir()
        (checkout / ".venv" / ".installed").touch()
        assert "pip" not in self.make(checkout, "-n", "test")
        assert "venv .venv" not in self.make(checkout, "-n", "demo")

    def test_changed_pins_install_again(self, checkout: Path):
        (checkout / ".venv").mkdir()
        stamp = checkout / ".venv" / ".installed"
        stamp.touch()
        newer = stamp.stat().st_mtime + 5
        os.utime(checkout / "constraints.txt", (newer, newer))
        assert "pip install" in self.make(checkout, "-n", "test")

    def test_a_python_that_is_too_old_is_refused_in_words(self, checkout: Path):
        python = checkout / "old_python"
        python.write_text('#!/bin/sh\nexec python3 -c "import sys; sys.version_info = (3, 9, 1, \'final\', 0)\nexec(sys.argv[1])" "$2"\n', encoding="utf-8")
        python.chmod(0o755)
        done = subprocess.run(["make", f"PYTHON={python}", "test"], cwd=checkout, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "Python 3.11 to 3.13 is needed, this is 3.9" in done.stderr
        assert not (checkout / ".venv").exists()

    def test_test_runs_lint_types_and_layers_before_the_tests(self, checkout: Path):
        steps = self.make(checkout, "-n", "test")
        order = [steps.index(".venv/bin/" + word) for word in ("ruff format --check", "ruff check", "mypy", "lint-imports", "pytest")]
        assert all(before < after for before, after in pairwise(order))


def test_ci_runs_make_test_last_and_asks_for_nothing():
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert text.rstrip().splitlines()[-1] == "make test"
    assert "set -euo pipefail" in text


def test_every_benchmark_that_make_calls_takes_the_flags_it_is_given():
    calls = re.findall(r"python -m (benchmarks\.\w+)(.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(calls) >= 4
    shared = (ROOT / "benchmarks" / "recommender.py").read_text(encoding="utf-8").split("def add_run_arguments")[1].split("\ndef ")[0]
    for module, flags in calls:
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        source += shared if "add_run_arguments(parser)" in source else ""
        assert [flag for flag in flags.split() if flag.startswith("-") and f'"{flag}"' not in source] == [], module
