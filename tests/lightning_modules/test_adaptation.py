"""Adaptation: nothing moves before the first step, what may move moves, and serving answers as training did."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from contracts.sections.training import ComputeConfig, EncoderConfig, FineTuningConfig
from lightning_modules import fine_tuning
from lightning_modules.adaptation import LAYERS, Adaptation, AdaptedTaste, AttentionLayer, GatedMixture
from lightning_modules.fine_tuning import fine_tune, rank_lists
from lightning_modules.jobs import FineTuneJob, PretrainJob
from lightning_modules.pretraining import open_log, pretrain, read_snapshot
from lightning_modules.samples import SampleData
from lightning_modules.taste import build_taste


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture
def job(fine_tune_job: FineTuneJob, pretrain_job: PretrainJob, compute: ComputeConfig, pretrained: Path) -> FineTuneJob:
    """A job with an encoder of every cut-off; pre-trained once."""
    if not (pretrained / "encoder.json").exists():
        pretrain(pretrain_job.model_copy(update={"epochs": 1.0}), compute, pretrained)
    return fine_tune_job.model_copy(update={"pretraining": str(pretrained), "epochs": 3, "samples": fine_tune_job.samples[-3:]})


def loaded(job: FineTuneJob, folder: Path) -> list[SampleData]:
    log = open_log(job.events, folder, job.event_type_codes(), job.num_items)
    return [sample for cutoff in sorted({one.cutoff for one in job.samples}) for sample in fine_tuning._at_cutoff(job, log, cutoff, folder / "terms")[1]]


@pytest.mark.parametrize("weights", ["frozen", "lora", "full"])
@pytest.mark.parametrize("layer", ["none", *LAYERS])
def test_it_starts_as_the_encoder_itself(weights: str, layer: str, job: FineTuneJob, tmp_path: Path) -> None:
    if (weights, layer) == ("frozen", "none"):
        assert not job.adapts
        assert loaded(job, tmp_path)[0].histories is None  # the default keeps queries, and needs no history
        return
    sample = loaded(job.model_copy(update={"adaptation": weights, "adaptation_layer": layer}), tmp_path)[0]
    users = torch.tensor([5, 0, 11])
    adaptation = Adaptation(sample.histories.taste, weights=weights, layer=layer, rank=2)
    torch.testing.assert_close(adaptation.queries(sample, users), sample.queries[users], atol=1e-5, rtol=1e-4)
    head = fine_tuning._new_head(job, [sample], fine_tuning._start_of_discover(job, [sample], seed=0), ())
    for ours, theirs in zip(
        rank_lists(head, job, sample, users, seed=0, queries=adaptation.queries(sample, users)), rank_lists(head, job, sample, users, seed=0), strict=True
    ):
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.totals, theirs.totals, atol=1e-4, rtol=1e-4)


def test_attention_over_the_history_is_worked_by_hand() -> None:
    layer = AttentionLayer(1)
    torch.nn.init.constant_(layer.added.weight, 10.0)
    query, vectors = torch.tensor([[2.0], [2.0]]), torch.tensor([[[0.0], [np.log(3) / 2]], [[7.0], [9.0]]])
    is_real = torch.tensor([[True, True], [False, False]])
    found = layer(query, vectors.float(), is_real)  # scores 0 and log 3: shares 1/4 and 3/4; no history: the query alone
    assert found[:, 0].tolist() == pytest.approx([2 + 10 * 0.75 * np.log(3) / 2, 2.0])


def test_the_gated_mixture_is_worked_by_hand() -> None:
    layer = GatedMixture(1)
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.bias.copy_(torch.tensor([np.log(3), 0.0, 0.0, 0.0]))
        layer.experts[:, 0, 0] = torch.tensor([4.0, 1.0, 1.0, 0.0])
    query = torch.tensor([[2.0]])
    assert layer(query, query[:, None], query > 0).item() == pytest.approx(2 + 2 * (3 / 6 * 4 + 1 / 6 + 1 / 6))


@pytest.mark.parametrize("kind", ["gpt", "gru", "transformer_xl"])
def test_lora_changes_matrices_by_a_low_rank_and_full_changes_every_weight_but_rows_of_items(kind: str) -> None:
    taste = build_taste(EncoderConfig(kind=kind, width=16, num_blocks=1), torch.zeros(9, 0, dtype=torch.long), num_items=9, num_event_types=1).eval()
    lora, full = (Adaptation(taste, weights=weights, layer="none", rank=2) for weights in ("lora", "full"))
    wanted = {name for name, _ in taste.named_parameters() if name.startswith(("encoder.", "request."))}
    assert set(full.changes()) == wanted
    matrices = {name for name in wanted if taste.get_parameter(name).ndim == 2 and "positions" not in name and "bias" not in name}
    assert set(lora.changes()) == matrices
    assert len(matrices) > 3
    for up in lora.up:
        torch.nn.init.normal_(up)
    assert {int(torch.linalg.matrix_rank(change)) for change in lora.changes().values()} == {2}


@torch.no_grad()
def test_lora_adds_up_times_down_to_the_answer_of_a_layer_in_training_and_when_exported() -> None:
    torch.manual_seed(0)
    taste = build_taste(EncoderConfig(width=8, num_blocks=1), torch.zeros(9, 0, dtype=torch.long), num_items=9, num_event_types=1).eval()
    adaptation = Adaptation(taste, weights="lora", layer="none", rank=2)
    at = adaptation.names.index("encoder.blocks.0.up.weight")
    up, down = np.stack([np.arange(32), np.ones(32)], 1) / 32, np.stack([np.arange(8), np.arange(8) % 2 - 2]) / 8
    for value, wanted in ((adaptation.up[at], up), (adaptation.down[at], down)):
        value.copy_(torch.from_numpy(wanted))
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    taste.encoder.blocks[0].up.register_forward_hook(lambda layer, given, answer: seen.append((given[0].numpy(), answer.numpy())))
    users = torch.tensor([0, 1])
    inputs = (torch.tensor([[1, 5, 3], [7, 0, 0]]), torch.full((2, 3), 19_000), torch.ones(2, 3, dtype=torch.long), torch.tensor([3, 1]), users + 19_030, users)
    taste(*inputs)
    adaptation.queries(SimpleNamespace(queries=torch.zeros(2, 8), histories=SimpleNamespace(taste=taste, inputs=lambda users: inputs)), users)
    AdaptedTaste(taste, adaptation)(*inputs)
    (x, plain), *changed = seen
    assert len(changed) == 2
    for given, answer in changed:
        np.testing.assert_array_equal(given, x)  # no layer before this one has changed
        np.testing.assert_allclose(answer - plain, x @ (up @ down).T, atol=1e-5)  # the product itself: no scale beside it


@pytest.mark.parametrize(
    ("weights", "layer", "moved", "still"),
    [
        ("lora", "none", {"up", "down"}, {"layer", "changed"}),
        ("lora", "linear", {"up", "down", "layer"}, {"changed"}),
        ("full", "attention", {"changed", "layer"}, {"up", "down"}),
        ("frozen", "gated_mixture", {"layer"}, {"up", "down", "changed"}),
    ],
)
def test_weights_move_as_promised_and_the_exported_network_answers_as_the_trained_one(
    weights: str,
    layer: str,
    moved: set[str],
    still: set[str],
    job: FineTuneJob,
    pretrained: Path,
    compute: ComputeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = job.model_copy(update={"adaptation": weights, "adaptation_layer": layer, "adaptation_rate": 2.0})
    before = {path.name: load_file(path) for path in (pretrained / "snapshots").iterdir()}
    kept: list[Adaptation] = []
    start: dict[str, torch.Tensor] = {}
    fit = fine_tuning._fit
    make = fine_tuning.Adaptation

    def made(*given: object, **options: object) -> Adaptation:
        adaptation = make(*given, **options)
        start.update({name: value.detach().clone() for name, value in adaptation.named_parameters()})
        return adaptation

    monkeypatch.setattr(fine_tuning, "Adaptation", made)
    monkeypatch.setattr(fine_tuning, "_fit", lambda *given, **options: (found := fit(*given, **options), kept.append(found[1]))[0])
    # keep the last weights rather than the best: that something moved is what is looked at
    monkeypatch.setattr(fine_tuning.NewestCutoff, "on_train_start", lambda *given: None)
    monkeypatch.setattr(fine_tuning.NewestCutoff, "on_train_batch_end", lambda *given: None)
    fine_tune(job, compute, tmp_path)
    (adaptation,) = kept
    changed = {name.split(".")[0] for name, value in adaptation.named_parameters() if not torch.equal(value, start[name])}
    assert changed == moved
    assert not still & {name.split(".")[0] for name, _ in adaptation.named_parameters()}
    for path in (pretrained / "snapshots").iterdir():
        assert all(torch.equal(value, before[path.name][name]) for name, value in load_file(path).items()), path.name

    origin = job.origins[0]
    networks = tmp_path / origin.isoformat() / "networks"
    inputs = {
        "items": np.array([[1, 5, 9, 2], [7, 3, 0, 0], [0, 0, 0, 0]]),
        "event_days": np.array([[19_000, 19_010, 19_030, 19_031], [19_005, 19_050, 0, 0], [0, 0, 0, 0]]),
        "event_types": np.array([[1, 1, 2, 1], [2, 1, 0, 0], [0, 0, 0, 0]]),
        "lengths": np.array([4, 2, 0]),
        "request_day": np.array([19_060, 19_060, 19_060]),
        "lead_days": np.array([0.0, 28.0, 7.0], np.float32),
    }
    session = onnxruntime.InferenceSession(networks / "encoder.onnx", providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}
    (served,) = session.run(["query"], {name: value for name, value in inputs.items() if name in names})
    taste = read_snapshot(pretrained, origin.isoformat())
    tensors = [torch.from_numpy(value) for value in inputs.values()]
    with torch.no_grad():
        plain = taste(*tensors)
        trained = torch.func.functional_call(taste, {name: taste.get_parameter(name) + change for name, change in adaptation.changes().items()}, tuple(tensors))
        if adaptation.layer is not None:
            is_real = torch.arange(4)[None] < tensors[3][:, None]
            trained = adaptation.layer(trained, taste.items(tensors[0]), is_real)
    np.testing.assert_allclose(served, trained.numpy(), atol=2e-5)
    assert np.abs(served - plain.numpy()).max() > 1e-3


def test_adapted_queries_learn_more_of_the_targets_than_frozen_ones(
    job: FineTuneJob, compute: ComputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its own training samples a free encoder reaches a lower loss than a frozen one, all else equal."""
    monkeypatch.setattr(fine_tuning.NewestCutoff, "on_train_batch_end", lambda *given: None)  # no early end
    monkeypatch.setattr(fine_tuning.NewestCutoff, "on_train_start", lambda *given: None)
    found = {}
    for weights in ("frozen", "full"):
        tried = job.model_copy(update={"adaptation": weights, "adaptation_rate": 1.0, "epochs": 12, "anchor": 0.0})
        samples = loaded(tried, tmp_path / weights)
        start = fine_tuning._start_of_discover(tried, samples, seed=0)
        head, adaptation, _, _ = fine_tuning._fit(tried, samples, compute, tmp_path / weights / "fit", seed=0, label="", unused=(), start=start)
        with torch.no_grad():
            losses = []
            for sample in samples:
                users = torch.arange(sample.num_users)
                queries = adaptation.queries(sample, users) if adaptation else None
                losses += [
                    float(loss / weight.clamp(min=1e-9))
                    for loss, weight in map(fine_tuning.list_loss, rank_lists(head, tried, sample, users, seed=0, queries=queries))
                ]
        found[weights] = np.mean(losses)
    assert found["full"] < found["frozen"] - 0.01, found


def test_seeds_and_adaptation_are_told_apart() -> None:
    with pytest.raises(ValueError, match=r"num_seeds 2 does not go with fine_tuning.adaptation lora"):
        FineTuningConfig(num_seeds=2, adaptation="lora")


@torch.no_grad()
def test_a_look_at_held_out_users_sees_the_adapted_encoder(job: FineTuneJob, tmp_path: Path) -> None:
    job = job.model_copy(update={"adaptation": "lora", "adaptation_layer": "attention"})
    sample = loaded(job, tmp_path)[0]
    torch.manual_seed(0)
    adaptation = Adaptation(sample.histories.taste, weights="lora", layer="attention", rank=2)
    for value in adaptation.parameters():
        torch.nn.init.normal_(value, std=0.5)
    users = torch.tensor([2, 9, 20])
    head = fine_tuning._new_head(job, [sample], fine_tuning._start_of_discover(job, [sample], seed=0), ())
    applied = adaptation.applied(sample, users.numpy())
    by_look, by_step, as_before = (
        rank_lists(head, job, applied, users, seed=0)[0],
        rank_lists(head, job, sample, users, seed=0, queries=adaptation.queries(sample, users))[0],
        rank_lists(head, job, sample, users, seed=0)[0],
    )
    torch.testing.assert_close(by_look.scores, by_step.scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(by_look.totals, by_step.totals, atol=1e-4, rtol=1e-4)
    assert (by_look.scores - as_before.scores).abs().max() > 0.01
    others = np.setdiff1d(np.arange(sample.num_users), users.numpy())
    assert torch.equal(applied.queries[others], sample.queries[others])


def test_an_adapted_encoder_has_to_earn_its_place_too(job: FineTuneJob, compute: ComputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "find_weights", lambda samples, users, start, *given, **more: replace(start, taste=(0.0, *start.taste[1:])))
    job = job.model_copy(update={"adaptation": "lora", "use_encoder": "if_it_adds", "max_steps": 6})
    result = fine_tune(job, compute, tmp_path)
    assert result.metrics[f"encoder_weight_{job.origins[0]}"] == 0.0
    assert not (tmp_path / job.origins[0].isoformat() / "networks" / "encoder.onnx").exists()
