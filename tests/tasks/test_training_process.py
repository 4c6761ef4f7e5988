"""The runner: what it starts, what it shows, how it ends a child, when it does not start one."""

import os
import sys
import time
from pathlib import Path

import pytest

from contracts.artifacts import JobResult
from contracts.errors import TrainingFailedError
from contracts.sections.training import ComputeConfig
from lightning_modules.jobs import PretrainJob
from tasks import training_process
from tasks.training_process import finished_result, run_training, training_command, training_environment

COMPUTE = ComputeConfig(accelerator="cpu", threads=3)


@pytest.fixture
def job() -> PretrainJob:
    return PretrainJob(inputs_digest="0123456789abcdef", events="events.parquet", num_items=3, event_types=("purchase",), cutoffs=("2024-01-01",))


def child(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Let the runner start `source` instead of a training; sys.argv[1] is job.json."""
    monkeypatch.setattr(training_process, "training_command", lambda path, compute: [sys.executable, "-u", "-c", source, str(path)])


def result_source(job: PretrainJob) -> str:
    result = JobResult(stage="pretrain", output="out", metrics={"loss": 1.5}, seconds=2.0, job_digest=job.digest())
    return f"import pathlib, sys; pathlib.Path(sys.argv[1]).with_name('result.json').write_text('''{result.model_dump_json()}''')"


def test_lines_are_passed_on_and_the_result_is_read(job: PretrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "print('progress pretrain 0.5000 half'); " + result_source(job))
    lines: list[str] = []
    result = run_training(job, tmp_path / "new", COMPUTE, lines.append)
    assert lines == ["progress pretrain 0.5000 half"]
    assert result.metrics == {"loss": 1.5}


def test_a_finished_job_is_not_started_again_and_a_changed_one_is(job: PretrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "print('started'); " + result_source(job))
    lines: list[str] = []
    for _ in range(2):
        run_training(job, tmp_path, COMPUTE, lines.append)
    assert lines == ["started"]
    changed = job.model_copy(update={"seed": 1})
    assert finished_result(tmp_path, changed.digest()) is None
    with pytest.raises(TrainingFailedError, match=r"left no result\.json of this job"):
        run_training(changed, tmp_path, COMPUTE, lines.append)
    assert lines == ["started", "started"]


def test_more_machines_do_not_make_another_job(job: PretrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "print('started'); " + result_source(job))
    lines: list[str] = []
    for devices in (1, 2):
        run_training(job, tmp_path, COMPUTE.model_copy(update={"devices": devices}), lines.append)
    assert lines == ["started"]


def test_a_checkpoint_of_another_job_is_thrown_away_and_of_the_same_kept(job: PretrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "import sys; sys.exit(1)")
    checkpoint = tmp_path / "last.ckpt"
    for seed, is_kept in ((0, True), (0, True), (1, False)):
        checkpoint.touch()
        with pytest.raises(TrainingFailedError):
            run_training(job.model_copy(update={"seed": seed}), tmp_path, COMPUTE, lambda line: None)
        assert checkpoint.exists() is is_kept


def test_a_failure_tells_exit_code_job_and_last_lines(job: PretrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "import sys; [print('line', n) for n in range(50)]; print('no memory', file=sys.stderr); sys.exit(7)")
    with pytest.raises(TrainingFailedError, match=r"exit code 7.*job\.json") as caught:
        run_training(job, tmp_path, COMPUTE, lambda line: None)
    assert caught.value.exit_code == 7
    assert len(caught.value.last_lines) == 30
    assert caught.value.last_lines[-1] == "no memory"
    assert "line 49" in str(caught.value)


def test_the_childs_environment_holds_no_rank_and_the_asked_threads() -> None:
    around = {"RANK": "1", "WORLD_SIZE": "8", "MASTER_PORT": "1", "LOCAL_RANK": "1", "PYTHONPATH": "/elsewhere", "HOME": "/home/user"}
    environment = training_environment(around, COMPUTE)
    assert not set(environment) & {"RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK"}
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["HOME"] == "/home/user"
    assert environment["PYTHONPATH"].split(os.pathsep)[1] == "/elsewhere"


def test_one_process_is_started_alone_and_several_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("job.json")
    assert training_command(path, COMPUTE)[1:] == ["-u", "-m", "lightning_modules.train", "job.json"]
    two = training_command(path, COMPUTE.model_copy(update={"devices": 2}))
    assert "torch.distributed.run" in two
    assert "--nproc-per-node=2" in two
    assert "--standalone" in two
    monkeypatch.setenv("MASTER_ADDR", "node-0")
    monkeypatch.setenv("MASTER_PORT", "4711")
    monkeypatch.setenv("NODE_RANK", "1")
    nodes = training_command(path, COMPUTE.model_copy(update={"devices": 8, "num_nodes": 2}))
    assert {"--nnodes=2", "--node-rank=1", "--rdzv-endpoint=node-0:4711"} <= set(nodes)
    assert "--standalone" not in nodes


IGNORE_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
GRANDCHILD = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(p.pid); time.sleep(60)"


@pytest.mark.parametrize("is_deaf", [False, True])
def test_cancelling_ends_the_child_and_its_children(is_deaf: bool, job: PretrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_process, "SECONDS_TO_END", 0.3)
    child(monkeypatch, (IGNORE_SIGTERM if is_deaf else "") + GRANDCHILD)  # an ignored signal stays ignored in the grandchild
    seen: list[int] = []

    def cancel(line: str) -> None:
        seen.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(job, tmp_path, COMPUTE, cancel)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _is_running(seen[0]):
        time.sleep(0.05)
    assert not _is_running(seen[0])


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


@pytest.mark.slow
def test_an_error_of_a_real_training_reaches_the_caller(tmp_path: Path) -> None:
    job = PretrainJob(
        inputs_digest="0123456789abcdef", events=str(tmp_path / "missing.parquet"), num_items=3, event_types=("purchase",), cutoffs=("2024-01-01",)
    )
    lines: list[str] = []
    with pytest.raises(TrainingFailedError) as caught:
        run_training(job, tmp_path / "job", COMPUTE, lines.append)
    assert caught.value.exit_code != 0
    assert "missing.parquet" in str(caught.value)
