"""Step `compress`: smaller forms of the fitted model are measured, and the smallest that loses next to nothing goes on."""

import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from safetensors.numpy import load_file

from contracts import columns as c
from contracts.artifacts import BundleRef, Bundles, ValidationReport
from contracts.sections.evaluation import EvaluationConfig, GateConfig
from contracts.sections.training import ComputeConfig
from evaluation.ranking_metrics import score_rankings
from evaluation.targets import targets
from lightning_modules.distillation_job import DistilJob
from serving.answers import Ask, answer_all
from serving.bundle import NETWORKS, VOCABULARY, bundle_ref, read_bundle
from serving.compression import DISTILLED, Form, choose_form, compress_bundle, forms_for, size_bytes
from serving.recommender import Recommender
from tasks.reuse import reusable
from tasks.store import SCORER, Store, read_table, write_text
from tasks.training_process import run_training

CODE = ("evaluation", "features", "lightning_modules", *SCORER, "serving/answers.py", "serving/compression.py")
FULL = "full"
NUM_USERS = 400
NUM_TIMED = 40
STUDENT_DIVISOR = 4
LEAST_WIDTH = 8


@task(name="compress", **reusable(*CODE, minutes=60))
def compress(
    bundles: Bundles,
    validated: ValidationReport,
    config: EvaluationConfig,
    gates: GateConfig,
    target_events: tuple[str, ...],
    store: Store,
    *,
    compute: ComputeConfig,
    seed: int,
) -> Bundles:
    """The bundles in the smallest form whose NDCG@10 at the first evaluated origin is at most `gates.max_form_loss` below the full model's, list by list.

    What is evaluated, registered, published and served from here on is that form. Without `max_form_loss` the bundles go on as they are.
    Size, time and NDCG of every form join the figures of the fit. The distilled form needs an encoder and is left out, with a line, where taste has none.
    """
    if gates.max_form_loss is None or not bundles.evaluated:
        return bundles
    folder = store.step_folder("compress", bundles, validated.accepted, config, gates, ",".join(target_events), str(seed), code=CODE)
    origin = min(bundles.evaluated)
    first = bundles.evaluated[origin]
    names = [*forms_for(read_bundle(first.path).table(VOCABULARY).height), *([DISTILLED] if gates.distil and has_encoder(first) else [])]
    if gates.distil and DISTILLED not in names:
        get_run_logger().info("taste has no encoder: there is nothing to distil")

    def in_form(bundle: BundleRef, name: str) -> BundleRef:
        return _in_form(bundle, name, folder, student=lambda: distilled_encoder(bundle, folder, compute, seed, get_run_logger().info))

    forms = {FULL: first, **{name: in_form(first, name) for name in names}}
    wanted = wanted_items(validated, origin, config, target_events)
    measured = [measure_form(name, bundle, wanted) for name, bundle in forms.items()]
    chosen = choose_form(measured, max_loss=gates.max_form_loss)
    create_table_artifact(
        [{"form": form.name, "MiB": f"{form.size_bytes / 2**20:.1f}", "ms": f"{form.latency_ms:.1f}", **_shown(form)} for form in measured],
        key="forms",
        description=f"smaller forms at {origin}, {NUM_USERS} users; chosen: {chosen.name}",
    )
    get_run_logger().info("form %s of %s goes on", chosen.name, ", ".join(forms))
    write_text(json.dumps({form.name: figures(form) for form in measured}, indent=1), folder / "forms.json")
    metrics = {**bundles.metrics, **{f"form.{form.name}.{name}": value for form in measured for name, value in figures(form).items()}}
    if chosen.name == FULL:
        return bundles.model_copy(update={"metrics": metrics})
    evaluated = {day: in_form(bundle, chosen.name) for day, bundle in bundles.evaluated.items()}
    return bundles.model_copy(update={"evaluated": evaluated, "final": in_form(bundles.final, chosen.name), "metrics": metrics})


def wanted_items(validated: ValidationReport, origin: str, config: EvaluationConfig, target_events: tuple[str, ...]) -> dict[str, pl.DataFrame]:
    """Targets (user_id, item_id) of each list in the window that begins at the origin."""
    interactions, day = read_table(validated.accepted), date.fromisoformat(origin)
    return {name: targets(interactions, day, 0, config.horizon_days, name, target_events=target_events or None) for name in config.lists}


def has_encoder(bundle: BundleRef) -> bool:
    """Whether taste of a bundle has a sequence encoder."""
    return (Path(bundle.path) / NETWORKS / "encoder.onnx").is_file()


def distilled_encoder(bundle: BundleRef, folder: Path, compute: ComputeConfig, seed: int, on_line: Callable[[str], None]) -> Path:
    """Graph of a narrow encoder trained, in a process of its own, on the queries of the bundle's encoder; made once below `folder`."""
    width = load_file(Path(bundle.path) / NETWORKS / "vectors.safetensors")["taste_items"].shape[1]
    job = DistilJob(inputs_digest=bundle.digest, seed=seed, bundle=bundle.path, width=max(LEAST_WIDTH, width // STUDENT_DIVISOR))
    one_process = compute.model_copy(update={"devices": 1, "num_nodes": 1})
    result = run_training(job, folder / "students" / Path(bundle.path).name, one_process, on_line)
    return Path(result.output) / "encoder.onnx"


def measure_form(name: str, bundle: BundleRef, wanted: dict[str, pl.DataFrame]) -> Form:
    """Size, median time of a request, and NDCG@10 per list over `NUM_USERS` users with targets (user_id, item_id)."""
    recommender = Recommender.load(bundle.path)
    recommender.warm(recommender.cutoff)
    quality, times = {}, []
    for list_name, of_list in wanted.items():
        everyone = of_list[c.USER_ID].unique().sort()
        users = everyone.gather_every(max(len(everyone) // NUM_USERS, 1)).head(NUM_USERS).to_list()
        ranked = recommender.rank(users, request_date=recommender.cutoff, list_name=list_name, k=10)
        scored = score_rankings(ranked, of_list.filter(pl.col(c.USER_ID).is_in(users)))
        quality[list_name] = float(scored["ndcg"].mean() or 0.0)
        for user in users[-NUM_TIMED:]:
            started = time.perf_counter()
            answer_all(recommender, [Ask(recommender.cutoff, user, list_name=list_name)])
            times.append((time.perf_counter() - started) * 1000)
    return Form(name, size_bytes(Path(bundle.path)), float(np.median(times)) if times else 0.0, quality)


def _in_form(bundle: BundleRef, form: str, folder: Path, *, student: Callable[[], Path]) -> BundleRef:
    """A bundle in a smaller form below `folder`; made once. `student` trains the encoder of the distilled form."""
    target = folder / form / Path(bundle.path).name
    if (target / "bundle.json").is_file():
        return bundle_ref(read_bundle(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    return compress_bundle(Path(bundle.path), target, form=form, encoder=student() if form == DISTILLED else None)


def figures(form: Form) -> dict[str, float]:
    """What the registry holds of a form: size (MB), time of a request (ms), NDCG@10 of each list."""
    return {"size_mb": form.size_bytes / 1e6, "latency_ms": form.latency_ms, **{f"{name}.ndcg_at_10": value for name, value in form.quality.items()}}


def _shown(form: Form) -> dict[str, str]:
    return {name: f"{value:.4f}" for name, value in form.quality.items()}
