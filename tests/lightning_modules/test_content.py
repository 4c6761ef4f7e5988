"""Items without history, by their content: vectors in taste, rows in the linear terms, rows after a warm start."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from safetensors.numpy import load_file

from contracts.errors import CheckpointMismatchError
from contracts.sections.training import ComputeConfig, EncoderConfig
from lightning_modules.content import content_table, nearest, with_new_items, with_rows
from lightning_modules.export import export_encoder
from lightning_modules.fine_tuning import fine_tune
from lightning_modules.jobs import FineTuneJob, PretrainJob
from lightning_modules.linear_items import fit_exact, fit_low_rank
from lightning_modules.pretraining import pretrain, read_snapshot
from lightning_modules.samples import Known
from lightning_modules.taste import build_taste
from lightning_modules.warm_start import grown_items
from tests.lightning_modules.conftest import NUM_ITEMS, cutoffs

CONFIG = EncoderConfig(width=16, num_blocks=1, num_heads=2, max_history=8, dropout=0.0)
NO_CATEGORIES = torch.zeros(6, 0, dtype=torch.long)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def write_content(path: Path, vectors: np.ndarray, items: list[int]) -> str:
    pl.DataFrame({"item_index": items, "vector": pl.Series(unit(vectors), dtype=pl.Array(pl.Float32, vectors.shape[1]))}).write_parquet(path)
    return str(path)


def test_table_has_zeros_where_an_item_has_no_words(tmp_path: Path) -> None:
    path = write_content(tmp_path / "content.parquet", np.array([[3.0, 4.0], [0.0, 2.0]]), [3, 1])
    table = content_table(path, 5)
    assert table is not None
    np.testing.assert_allclose(table.float().numpy(), [[0, 0], [0, 1], [0, 0], [0.6, 0.8], [0, 0]], atol=1e-3)
    assert content_table(None, 5) is None
    with pytest.raises(CheckpointMismatchError, match="names item 3, the vocabulary has 3 rows"):
        content_table(path, 3)


def test_nearest_by_hand() -> None:
    content = unit(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.1], [-1.0, -1.0]]))
    places, shares = nearest(content, np.array([4, 5, 0]), np.array([1, 2, 3]), number=2, least_cosine=0.5)
    assert places[0].tolist() == [0, 2]
    cosines = np.array([1 / 1.01**0.5, 1.1 / (2 * 1.01) ** 0.5])
    np.testing.assert_allclose(shares[0], cosines / cosines.sum(), atol=1e-6)
    assert shares[1].tolist() == shares[2].tolist() == [0.0, 0.0]  # unlike everything; no words
    assert nearest(content, np.array([4]), np.zeros(0, np.int64), number=2, least_cosine=0.0)[1].shape == (1, 0)


@pytest.mark.parametrize("is_exact", [True, False])
def test_row_of_a_new_item_scores_as_the_mean_of_its_neighbours(is_exact: bool) -> None:
    generator = np.random.default_rng(0)
    history = sp.csr_array((generator.random((30, 9)) < 0.3).astype(np.float32))
    pool = np.array([0, 2, 3, 6, 8])
    options = {"max_landmarks": 100} if is_exact else {"rank": 9}
    linear = (fit_exact if is_exact else fit_low_rank)(history, pool, ridge=5.0, **options)
    grown = with_rows(linear, np.array([7, 4]), np.array([[0, 3], [4, 1]]), np.array([[0.75, 0.25], [1.0, 0.0]], np.float32))
    assert grown.pool.tolist() == [0, 2, 3, 4, 6, 7, 8]
    found, whole = grown.scores(history), linear.scores(history) + (history[:, pool].toarray() * linear.own)  # with what an item says for itself
    np.testing.assert_allclose(found[:, [0, 1, 2, 4, 6]], linear.scores(history), atol=1e-5)
    np.testing.assert_allclose(found[:, 5], 0.75 * whole[:, 0] + 0.25 * whole[:, 3], atol=1e-5)
    np.testing.assert_allclose(found[:, 3], whole[:, 4], atol=1e-5)
    rows = linear.landmarks if is_exact else np.arange(30)  # fitted users have a short cut, which does not hold for filled rows
    np.testing.assert_allclose(grown.scores_of(rows, history), found[rows], atol=1e-5)


def known_shop() -> tuple[Known, sp.csr_array]:
    """Tea (1 to 4) is had by some users, tools (5 to 8) by the others; 9 is a tea nobody has had, 10 a tool, 11 a thing without words; row 0 is padding."""
    generator = np.random.default_rng(1)
    likes_tea = np.arange(40) % 2 == 0
    table = np.zeros((40, 12), np.float32)
    table[:, 1:5] = likes_tea[:, None] & (generator.random((40, 4)) < 0.6)
    table[:, 5:9] = ~likes_tea[:, None] & (generator.random((40, 4)) < 0.6)
    history = sp.csr_array(table)
    pool = np.arange(1, 9)
    linear = fit_exact(history, pool, ridge=5.0, max_landmarks=100)
    return Known(cutoffs()[0], (history,), (linear,), table.sum(0), pool, None, None), history


def tea_and_tools(path: Path) -> str:
    words = np.random.default_rng(2).normal(0, 0.2, (10, 4))
    words[[0, 1, 2, 3, 8], 0] += 1.0
    words[[4, 5, 6, 7, 9], 1] += 1.0
    return write_content(path, words, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])


def test_new_item_ranks_with_those_of_like_words_and_without_content_it_does_not(fine_tune_job: FineTuneJob, tmp_path: Path) -> None:
    known, history = known_shop()
    job = fine_tune_job.model_copy(update={"num_items": 12, "content": tea_and_tools(tmp_path / "content.parquet"), "neighbours": 3})
    grown = with_new_items(job, known)
    assert grown.pool.tolist() == list(range(1, 11))
    scores = grown.linear[0].scores(history)
    tea, tool = scores[0::2], scores[1::2]
    assert (tea[:, 8] > tea[:, 4:8].max(1)).mean() > 0.9  # the new tea lies above every tool for who has tea
    assert (tea[:, 8] > tea[:, 9]).mean() > 0.9
    assert (tool[:, 9] > tool[:, 8]).mean() > 0.9

    assert with_new_items(job.model_copy(update={"content": None}), known) is known
    assert with_new_items(job.model_copy(update={"neighbour_weight": 0.0}), known) is known
    assert with_new_items(job.model_copy(update={"max_new_items": 1}), known).pool.size == 9
    assert with_new_items(job.model_copy(update={"least_cosine": 1.0}), known) is known


def test_item_without_history_has_a_vector_near_its_like_once_words_are_learned() -> None:
    torch.manual_seed(0)
    content = torch.from_numpy(unit(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.05]]))).half()
    items = build_taste(CONFIG, NO_CATEGORIES, num_items=6, num_event_types=1, content=content).items
    vectors = items.all().detach()
    alike = torch.nn.functional.cosine_similarity(vectors[5:6], vectors[1:5])
    assert alike[:2].min() > 0.99 > alike[2:].max()
    assert vectors[0].abs().max() == 0  # no words, no history: nothing
    plain = build_taste(CONFIG, NO_CATEGORIES, num_items=6, num_event_types=1).items
    assert torch.nn.functional.cosine_similarity(plain.all()[5:6], plain.all()[1:5]).max() < 0.9


def test_content_folded_into_own_rows_leaves_vectors_and_the_exported_graph_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    content = torch.from_numpy(unit(np.random.default_rng(0).normal(size=(6, 4)))).half()
    categories = torch.tensor([[0], [1], [1], [2], [2], [0]])
    taste = build_taste(CONFIG, categories, num_items=6, num_event_types=1, content=content).eval()
    torch.nn.init.normal_(taste.request.output.weight)
    before = taste.items.all().detach()
    given = (torch.tensor([[1, 2, 5]]), torch.tensor([[3, 4, 9]]), torch.tensor([[1, 1, 1]]), torch.tensor([3]), torch.tensor([12]), torch.tensor([3.0]))
    with torch.no_grad():
        query = taste(*given)
    export_encoder(taste, tmp_path / "encoder.onnx")
    assert [6, 4] not in [list(table.dims) for table in onnx.load(tmp_path / "encoder.onnx").graph.initializer]  # no text vectors in it
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    names = ("items", "event_days", "event_types", "lengths", "request_day", "lead_days")
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
    np.testing.assert_allclose(found, query.numpy(), atol=1e-5)
    assert taste.items.of_content is not None  # what is trained on stays as it was
    taste.items.fold_content()
    torch.testing.assert_close(taste.items.all().detach(), before)
    assert not [name for name in taste.state_dict() if "content" in name]


def test_new_items_of_a_warm_start_begin_with_the_rows_of_their_like() -> None:
    content = torch.from_numpy(unit(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [1.0, 0.1], [0.0, 0.0]]))).half()
    own = torch.tensor([[9.0], [1.0], [3.0], [50.0]])
    of_content = torch.tensor([[10.0, 20.0]])
    rows = grown_items(own, torch.tensor([0, 1, 2, 3, -1, -1]), torch.zeros(1, 1), NO_CATEGORIES, content, of_content)
    assert torch.equal(rows[:4], own)
    assert rows[4].item() == pytest.approx(2.0, abs=0.02)  # of 1 and 2, which are as near; not of 3
    vectors = own[1:4, 0] + content[1:4].float() @ of_content[0]
    assert rows[5].item() == pytest.approx(vectors.mean().item(), abs=0.01)  # no words: the mean of all


@pytest.mark.slow
def test_both_stages_with_content(pretrain_job: PretrainJob, fine_tune_job: FineTuneJob, compute: ComputeConfig, tmp_path: Path) -> None:
    """Pre-training learns the map, snapshots are small and come back whole, and the exported pool holds an item nobody has had."""
    vectors = np.random.default_rng(3).normal(0, 0.3, (NUM_ITEMS + 1, 8))
    vectors[np.arange(NUM_ITEMS), np.arange(NUM_ITEMS) // 8] += 1.0
    vectors[NUM_ITEMS, 2] += 1.0
    more = {"num_items": NUM_ITEMS + 1, "content": write_content(tmp_path / "content.parquet", vectors, list(range(NUM_ITEMS + 1)))}
    pretrain(pretrain_job.model_copy(update={**more, "epochs": 1.0}), compute, tmp_path / "encoder")
    origin = fine_tune_job.origins[0]
    taste = read_snapshot(tmp_path / "encoder", origin.isoformat())
    assert json.loads((tmp_path / "encoder" / "encoder.json").read_text())["content"] == more["content"]
    stored = load_file(tmp_path / "encoder" / "snapshots" / f"{origin}.safetensors")
    assert "items.content" not in stored
    first = load_file(tmp_path / "encoder" / "snapshots" / f"{cutoffs()[0]}.safetensors")
    assert not np.array_equal(first["items.of_content.weight"], stored["items.of_content.weight"])  # it is learned

    job = fine_tune_job.model_copy(update={**more, "pretraining": str(tmp_path / "encoder"), "max_steps": 4})
    fine_tune(job, compute, tmp_path / "head")
    tables = load_file(tmp_path / "head" / origin.isoformat() / "networks" / "vectors.safetensors")
    assert tables["linear_items"][-1] == NUM_ITEMS
    assert np.abs(tables["linear_0_out"][-1]).max() > 0
    assert tables["linear_0_self"][-1] == 0
    np.testing.assert_allclose(tables["taste_items"], taste.items.all().detach().numpy(), atol=1e-6)
