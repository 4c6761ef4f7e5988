"""A narrow encoder learns the queries of the exported one."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file, save_file

from contracts.sections.training import ComputeConfig, EncoderConfig
from lightning_modules.distillation import Student, _examples, _teacher, distil, relative_error
from lightning_modules.distillation_job import DistilJob
from lightning_modules.export import export_encoder
from lightning_modules.taste import build_taste

NUM_ITEMS, WIDTH, MAX_HISTORY = 60, 16, 12
TYPES = {"purchase": 1, "view": 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a distillation reads of a bundle: an exported encoder over item vectors of few directions, head and histories."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "networks").mkdir()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    taste = build_taste(
        EncoderConfig(width=WIDTH, num_blocks=1, num_heads=2, dropout=0.0, max_history=MAX_HISTORY),
        torch.zeros(NUM_ITEMS, 0, dtype=torch.long),
        num_items=NUM_ITEMS,
        num_event_types=2,
    ).eval()
    vectors = (rng.normal(size=(NUM_ITEMS, 4)) @ rng.normal(size=(4, WIDTH))).astype(np.float32)
    with torch.no_grad():
        taste.items.own.weight[:] = torch.from_numpy(vectors)
    export_encoder(taste, folder / "networks" / "encoder.onnx")
    save_file({"taste_items": vectors}, folder / "networks" / "vectors.safetensors")
    (folder / "networks" / "head.json").write_text(json.dumps({"event_types": TYPES, "max_history": MAX_HISTORY}))
    lengths = rng.integers(0, 30, 80)
    pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in range(80)],
            "item_index": [rng.integers(0, NUM_ITEMS, length).tolist() for length in lengths],
            "event_day": [np.sort(rng.integers(18_000, 19_000, length)).tolist() for length in lengths],
            "event_type": [rng.choice(["purchase", "view", "other"], length).tolist() for length in lengths],
        },
        schema={"user_id": pl.String, "item_index": pl.List(pl.Int32), "event_day": pl.List(pl.Int32), "event_type": pl.List(pl.String)},
    ).write_parquet(folder / "histories.parquet")
    return folder


def job_of(bundle: Path, **settings: object) -> DistilJob:
    return DistilJob.model_validate({"inputs_digest": "0" * 16, "bundle": str(bundle), "width": 8, "num_examples": 2_000, "batch_examples": 64} | settings)


def untrained_error(bundle: Path) -> float:
    job = job_of(bundle, num_examples=300)
    examples = _examples(job, TYPES, MAX_HISTORY)
    examples["query"] = _teacher(bundle / "networks" / "encoder.onnx", examples)
    student = Student(job, load_file(bundle / "networks" / "vectors.safetensors")["taste_items"], num_event_types=2, max_history=MAX_HISTORY).eval()
    with torch.no_grad():
        return float(relative_error(student, examples))


@pytest.mark.slow
def test_the_student_gives_nearly_the_teachers_queries_and_takes_the_same_inputs(bundle: Path, tmp_path: Path) -> None:
    result = distil(job_of(bundle), ComputeConfig(threads=1), tmp_path)
    assert result.metrics["cosine"] > 0.9
    assert result.metrics["relative_error"] < 0.4 * untrained_error(bundle), "training is what brings it near"
    teacher, student = (ort.InferenceSession(path / "encoder.onnx") for path in (bundle / "networks", tmp_path))
    assert {node.name: node.type for node in student.get_inputs()} == {node.name: node.type for node in teacher.get_inputs()}
    inputs = {"items": np.array([[5, 7, 9]]), "event_days": np.array([[18_500, 18_510, 18_512]]), "event_types": np.array([[1, 1, 2]])}
    inputs |= {"lengths": np.array([3]), "request_day": np.array([18_520]), "lead_days": np.array([4], np.float32)}
    expected, found = (one.run(["query"], inputs)[0] for one in (teacher, student))
    assert found.shape == expected.shape == (1, WIDTH)
    assert (expected @ found.T)[0, 0] > 0.8 * np.linalg.norm(expected) * np.linalg.norm(found)


def test_examples_are_beginnings_of_histories_as_the_service_pads_them(bundle: Path) -> None:
    examples = _examples(job_of(bundle, num_examples=500), TYPES, MAX_HISTORY)
    histories = pl.read_parquet(bundle / "histories.parquet")
    whole = {tuple(items[max(stop - MAX_HISTORY, 0) : stop]) for items in histories["item_index"].to_list() for stop in range(1, len(items) + 1)}
    ends = {tuple(items[-MAX_HISTORY:]) for items in histories["item_index"].to_list() if items}
    shown = [tuple(row[:length]) for row, length in zip(examples["items"].tolist(), examples["lengths"].tolist(), strict=True)]
    assert set(shown) <= whole
    assert sum(one in ends for one in shown) > 200
    assert max(examples["lengths"].tolist()) == MAX_HISTORY
    rows = torch.arange(500)
    gaps = examples["request_day"] - examples["event_days"][rows, examples["lengths"] - 1]
    assert 0 <= int(gaps.min()) < int(gaps.max()) <= 84
    assert bool((examples["lead_days"] <= gaps).all())
    padding = torch.arange(examples["items"].shape[1])[None] >= examples["lengths"][:, None]
    assert not examples["event_days"][padding].any()
    assert set(examples["event_types"].flatten().tolist()) == {0, 1, 2}


def test_a_bundle_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected encoder\.onnx, there is none"):
        distil(job_of(tmp_path), ComputeConfig(threads=1), tmp_path)
