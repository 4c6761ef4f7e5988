"""Whether a challenger may serve: gates are pure functions of figures, and each says in words why it opened or stayed shut.

quality_gate       as good as its opponent for each list and season, broad enough, forecast no worse
servability_gate   loads without pickle, answers the golden requests, fast and small enough
decide             all gates passed, and a person agreed or the configuration needs none
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Final, NamedTuple

from pydantic import Field

from contracts.artifacts import GateResult, Reference
from contracts.sections.evaluation import GateConfig
from evaluation.results import EvaluationResult

MIN_USERS_OF_SLICE: Final = 50  # a slice of fewer users is reported, but its figure is mostly noise


class PromotionDecision(Reference):
    """Whether the challenger becomes champion, and why. A challenger that loses is a normal result, not an error."""

    promoted: bool
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...] = ()


class ServabilityFigures(Reference):
    """What was measured on the stored version, loaded as the service loads it."""

    loads_without_pickle: bool
    num_golden_requests: int = Field(ge=0, description="requests whose answers were recorded when the version was made")
    num_golden_equal: int = Field(ge=0, description="of these, answered the same by the loaded version")
    latency_p95_ms: float = Field(ge=0)
    size_mb: float = Field(ge=0)


class ForecastFigures(Reference):
    """Error of the demand forecast (MASE) and of its opponent on the same periods, which neither was fitted or chosen on."""

    challenger: float
    opponent: float | None = Field(default=None, description="null where there is nothing to compare with")
    opponent_name: str = Field(default="last year's values", description="in words")
    by_level: Mapping[str, tuple[float, float]] = Field(default={}, description="level -> (challenger, opponent)")


def quality_gate(
    evaluation: EvaluationResult,
    config: GateConfig,
    *,
    trained_until: Mapping[str, date] | None = None,
    forecast: ForecastFigures | None = None,
) -> GateResult:
    """Compare the challenger with the champion, or, where there is none, with the best baseline of each list.

    Conditions: every window starts at or after the cut-offs of both; the lower end of the paired interval of the relative gain is at least
    `min_relative_gain` for each list (leads pooled); no season slice of at least 50 users loses more than `min_slice_gain` allows;
    coverage of each list; forecast error no more than `min_relative_gain` above its opponent's.

    Parameters
    ----------
    evaluation
        The challenger is its `model`.
    trained_until
        Model name -> last day (exclusive) of the data that model has seen.
    """
    checks = [
        *_unseen(evaluation, trained_until or {}),
        *_gains(evaluation, config),
        *_season_slices(evaluation, config),
        *_coverage(evaluation, config),
        *_forecast(forecast, config),
    ]
    return _result("quality", checks)


def servability_gate(figures: ServabilityFigures, config: GateConfig) -> GateResult:
    """Check that the stored version can serve: no pickle, golden requests equal, latency and size within bounds."""
    golden = f"{figures.num_golden_equal:,} of {figures.num_golden_requests:,} golden requests answered as recorded"
    checks = [
        _Check(figures.loads_without_pickle, "loads with pickle forbidden" if figures.loads_without_pickle else "does not load with pickle forbidden", {}),
        _Check(
            0 < figures.num_golden_requests == figures.num_golden_equal,
            golden if figures.num_golden_requests else "no golden request was recorded; at least one is needed",
            {"golden_equal": float(figures.num_golden_equal), "golden_requests": float(figures.num_golden_requests)},
        ),
        _at_most("latency p95", figures.latency_p95_ms, config.max_latency_ms, "ms", "latency_p95_ms"),
        _at_most("size", figures.size_mb, config.max_size_mb, "MB", "size_mb"),
    ]
    return _result("servability", checks)


def decide(gates: Sequence[GateResult], *, auto_promote: bool, is_approved: bool = False) -> PromotionDecision:
    """Promote where every gate passed and a person approved, or the configuration promotes by itself."""
    shut = [f"{gate.name} gate: {reason}" for gate in gates if not gate.passed for reason in gate.failures]
    if shut:
        return PromotionDecision(promoted=False, reasons=tuple(shut), gates=tuple(gates))
    passed = " and ".join(gate.name for gate in gates) or "no"
    if not (auto_promote or is_approved):
        return PromotionDecision(
            promoted=False, reasons=(f"{passed} gates passed; waits for a person's review (registry.auto_promote is off)",), gates=tuple(gates)
        )
    who = "approved by a person" if is_approved else "registry.auto_promote is on"
    return PromotionDecision(promoted=True, reasons=(f"{passed} gates passed; {who}",), gates=tuple(gates))


class _Check(NamedTuple):
    passed: bool
    reason: str
    figures: Mapping[str, float]


def _result(name: str, checks: Sequence[_Check]) -> GateResult:
    failed = tuple(check.reason for check in checks if not check.passed)
    passed = tuple(check.reason for check in checks if check.passed)
    figures = {key: value for check in checks for key, value in check.figures.items()}
    return GateResult(name=name, passed=not failed, reasons=failed + passed, failures=failed, figures=figures)


def _opponent(evaluation: EvaluationResult, list_name: str) -> str:
    return evaluation.champion or evaluation.best_baseline(list_name).name


def _unseen(evaluation: EvaluationResult, trained_until: Mapping[str, date]) -> Iterator[_Check]:
    first = min(evaluation.origins)
    for name in (evaluation.model, evaluation.champion):
        if name is None or name not in trained_until:
            continue
        fair = trained_until[name] <= first
        said = "has seen nothing after" if fair else "has seen data after"
        advice = "" if fair else f" (its data end {trained_until[name]}); evaluate on later windows or a version trained on less"
        yield _Check(fair, f"{name} {said} the first cut-off {first}{advice}", {})


def _gains(evaluation: EvaluationResult, config: GateConfig) -> Iterator[_Check]:
    for list_name in evaluation.lists:
        other = _opponent(evaluation, list_name)
        gain = evaluation.comparison(other, list_name)
        enough = gain.relative_low >= config.min_relative_gain
        compared = f"{list_name}: {gain.relative:+.1%} against {other} ({evaluation.main_metric} {gain.value:.4f} against {gain.other_value:.4f})"
        reason = f"{compared}, interval {gain.relative_low:+.1%} to {gain.relative_high:+.1%}; its lower end must be at least {config.min_relative_gain:+.1%}"
        yield _Check(enough, reason, {f"{list_name}_relative_gain": gain.relative, f"{list_name}_relative_gain_low": gain.relative_low})


def _season_slices(evaluation: EvaluationResult, config: GateConfig) -> Iterator[_Check]:
    for list_name in evaluation.lists:
        other = _opponent(evaluation, list_name)
        slices = [row for row in evaluation.slices if (row.kind, row.list, row.model) == ("season", list_name, other) and row.relative is not None]
        judged = {row.slice: row.relative for row in slices if row.num_users >= MIN_USERS_OF_SLICE and row.relative is not None}
        if not judged:
            continue
        worst = min(judged, key=lambda name: judged[name])
        reason = f"{list_name}: worst season {worst} {judged[worst]:+.1%} against {other}; no season may be below {config.min_slice_gain:+.1%}"
        yield _Check(judged[worst] >= config.min_slice_gain, reason, {f"{list_name}_worst_season_gain": judged[worst]})


def _coverage(evaluation: EvaluationResult, config: GateConfig) -> Iterator[_Check]:
    for list_name in evaluation.lists:
        values = [row.value for row in evaluation.rows if (row.model, row.list, row.metric) == (evaluation.model, list_name, "coverage@10")]
        if values:
            mean = sum(values) / len(values)
            reason = f"{list_name}: {mean:.1%} of the candidates are recommended to anyone; at least {config.min_coverage:.1%} is asked"
            yield _Check(mean >= config.min_coverage, reason, {f"{list_name}_coverage": mean})


def _forecast(forecast: ForecastFigures | None, config: GateConfig) -> Iterator[_Check]:
    if forecast is None:
        return
    figures = {"forecast_mase": forecast.challenger}
    if forecast.opponent is None:
        yield _Check(True, f"forecast: MASE {forecast.challenger:.3f}, nothing to compare with yet", figures)
        return
    allowed = forecast.opponent * (1 - config.min_relative_gain)
    levels = ", ".join(f"{level} {ours:.3f} against {theirs:.3f}" for level, (ours, theirs) in forecast.by_level.items())
    compared = f"forecast: MASE {forecast.challenger:.3f} against {forecast.opponent:.3f} of {forecast.opponent_name}{f' ({levels})' * bool(levels)}"
    figures = {**figures, "forecast_mase_opponent": forecast.opponent}
    yield _Check(forecast.challenger <= allowed, f"{compared}; at most {allowed:.3f} is allowed", figures)


def _at_most(what: str, value: float, bound: float, unit: str, key: str) -> _Check:
    return _Check(value <= bound, f"{what} {value:,.1f} {unit}; at most {bound:,.1f} {unit} is allowed", {key: value})
