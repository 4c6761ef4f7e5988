"""`perennial plan`: sizes given, sizes stored, and neither. Nothing is trained."""

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from contracts.config import PipelineConfig
from flows.plan_of_training import stored_size

Invoke = Callable[..., Any]
PARAMETERS = Path(__file__).parents[2] / "deployments" / "parameters"
START = (date(2022, 1, 1) - date(1970, 1, 1)).days


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"name: mine\nstorage_root: {tmp_path}/stores\nsource: {{dataset: synthetic}}\n"
        "pretraining: {encoder: {width: 16, num_blocks: 1}, batch_events: 256, num_negatives: 16, epochs: 1}\ncompute: {accelerator: cpu, threads: 1}\n",
        encoding="utf-8",
    )
    return path


def test_sizes_are_given(invoke: Invoke, parameters: Path):
    shown = invoke("plan", str(parameters), "--items", "5000", "--events", "20000", "--users", "1000", "--days", "200")
    assert shown.exit_code == 0, shown.output
    assert "20,000 events of 1,000 users, 5,000 items, 200 days" in shown.output
    assert re.search(r"gpt, width 16, 1 blocks: 8\d,\d{3} parameters, 80,016 of them rows of items", shown.output)
    assert "this CPU, 1 threads, as measured now" in shown.output
    assert int(re.search(r"(\d+) steps of", shown.output)[1]) >= 20_000 // 256  # type: ignore[index]


def test_sizes_are_those_of_the_stored_features(invoke: Invoke, parameters: Path):
    config = PipelineConfig.from_yaml(parameters)
    assert stored_size(config) is None
    assert "no features are stored for mine: give --items and --events" in re.sub(r"[\s│]+", " ", invoke("plan", str(parameters)).output)
    folder = Path(config.storage_root) / "mine" / "steps" / "build_features" / "0123456789abcdef"
    folder.mkdir(parents=True)
    events = pl.DataFrame(
        {
            "user_id": [f"u{number // 10:03d}" for number in range(3_000)],
            "item_index": pl.Series([number % 37 for number in range(3_000)], dtype=pl.Int32),
            "event_day": pl.Series([START + number % 10 * 11 for number in range(3_000)], dtype=pl.Int32),
            "event_type": ["purchase", "view"] * 1_500,
        }
    )
    events.write_parquet(folder / "training_events.parquet")
    pl.DataFrame({"item_id": ["a", "b"], "item_index": pl.Series([0, 41], dtype=pl.Int32)}).write_parquet(folder / "vocabulary.parquet")
    shown = invoke("plan", str(parameters))
    assert shown.exit_code == 0, shown.output
    assert "3,000 events of 300 users, 42 items, 100 days" in shown.output


def test_memory_of_a_device_and_duration_have_units_and_grow_with_the_width(invoke: Invoke, parameters: Path):
    text = parameters.read_text(encoding="utf-8").replace("accelerator: cpu, threads: 1", "accelerator: gpu").replace("batch_events: 256", "batch_events: 2048")
    memory, durations = [], []
    for width in (64, 256):
        parameters.write_text(text.replace("width: 16", f"width: {width}"), encoding="utf-8")
        shown = invoke("plan", str(parameters), "--items", "5000", "--events", "20000", "--tflops", "0.01")
        assert shown.exit_code == 0, shown.output
        assert re.search(r"memory of each device\W+MiB\W", shown.output)
        weights, together = (int(re.search(rf"{row}\W+([\d,]+)\W", shown.output)[1].replace(",", "")) for row in ("weights", "together"))  # type: ignore[index]
        num_parameters = int(re.search(r"([\d,]+) parameters,", shown.output)[1].replace(",", ""))  # type: ignore[index]
        assert weights == round(4 * num_parameters / 2**20)
        steps, each, whole, unit = re.search(r"([\d,]+) steps of .*, about ([\d.]+) s each: (\d+) (s|min) if no early", shown.output).groups()  # type: ignore[union-attr]
        seconds = {"s": 1, "min": 60}[unit]
        assert int(whole) * seconds == pytest.approx(int(steps.replace(",", "")) * float(each), abs=0.6 * seconds)
        memory.append(together)
        durations.append(int(whole) * seconds)
    assert 0 < memory[0] < memory[1]
    assert 0 < durations[0] < durations[1]


def test_large_model_is_above_100_million_parameters_without_its_items(invoke: Invoke):
    shown = invoke("plan", "large_model", "--items", "1000", "--events", "100000")
    assert shown.exit_code == 0, shown.output
    whole, items = (int(found.replace(",", "")) for found in re.search(r"([\d,]+) parameters, ([\d,]+) of them", shown.output).groups())  # type: ignore[union-attr]
    assert whole - items > 100_000_000
    assert "8 devices (fsdp2), precision bf16, activation checkpointing on" in shown.output
