"""The page of a version in the registry: what a reviewer needs to decide."""

from contracts.artifacts import Bundles, FeatureTables, ValidationReport
from contracts.config import PipelineConfig
from evaluation.results import EvaluationResult


def model_card(config: PipelineConfig, result: EvaluationResult, validated: ValidationReport, features: FeatureTables, bundles: Bundles) -> str:
    """Markdown: figures against the opponents per list and lead, slices, lead curve, data, settings."""
    encoder = config.pretraining.encoder
    measured = f"Measured at cut-offs {', '.join(map(str, result.origins))}, windows of {result.horizon_days} days"
    return "\n\n".join(
        [
            f"# {config.name}: taste + habit + season",
            f"{measured}; then refitted on all data up to {features.end}.",
            *(_list_table(result, name) for name in result.lists),
            _slices(result),
            _data(validated, features),
            f"Settings: {encoder.kind} encoder, width {encoder.width}, {encoder.num_blocks} blocks; seed {config.seed}. All are in `config.json` of the run.",
        ]
    )


def _list_table(result: EvaluationResult, list_name: str) -> str:
    """Main metric per lead, best first, with the gain of the recommender over each."""
    header = "| model | " + " | ".join(f"lead {lead}" for lead in result.leads) + " | gain |"
    lines = [f"## List {list_name}, {result.main_metric}", "", header, "|" + "---|" * (len(result.leads) + 2)]
    for model in sorted(result.models, key=lambda name: -result.figure(name, list_name).value):
        cells = [
            f"{figure.value:.4f} [{figure.ci_low:.4f}, {figure.ci_high:.4f}]" for lead in result.leads if (figure := result.figure(model, list_name, lead))
        ]
        if model == result.model:
            gain = ""
        else:
            compared = result.comparison(model, list_name)
            gain = f"{compared.relative:+.1%} [{compared.relative_low:+.1%}, {compared.relative_high:+.1%}]"
        lines.append(f"| {model} | " + " | ".join(cells) + f" | {gain} |")
    return "\n".join(lines)


def _slices(result: EvaluationResult) -> str:
    """Slices of the recommender: users and figure."""
    rows = [row for row in (*result.slices, *result.new_items) if row.model == result.model]
    if not rows:
        return "No slices were asked for."
    lines = ["## Slices", "", "| kind | slice | list | users | value |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.kind} | {row.slice} | {row.list} | {row.num_users:,} | {row.value:.4f} |" for row in rows)])


def _data(validated: ValidationReport, features: FeatureTables) -> str:
    found = "\n".join(f"* {finding.severity}: {finding.message}" for finding in validated.findings) or "* all expectations hold"
    counts = (
        f"{validated.rows_accepted:,} of {validated.rows_in:,} events accepted, {features.first_day} to {features.end}, {features.vocabulary.rows:,} items."
    )
    return f"## Data\n\n{counts}\n\n{found}"
