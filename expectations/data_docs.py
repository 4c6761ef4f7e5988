"""Data Docs: what was checked and what was found, as pages that open without a network.

Great Expectations draws one page per suite and one per result, dressed by style sheets and scripts of a dozen foreign servers. Here those are
replaced by one style sheet and one script of ours, inside each page, and the index is our own: every rule with its severity, failed ones first.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from expectations.engine import Checked, Outcome, Run

SITE: Final = "local"

_STYLE: Final = Path(__file__).with_name("data_docs.css").read_text(encoding="utf-8")
_SCRIPT: Final = Path(__file__).with_name("data_docs.js").read_text(encoding="utf-8")

# What Great Expectations puts into a page and ours do without: foreign style sheets and scripts, own styles, icons, logo, newsletter.
_DROPPED: Final = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (r"<link\b[^>]*>", r"<script\b[^>]*>.*?</script>", r"<style>.*?</style>", r"<img\b[^>]*/?>", r"<footer>.*?</footer>")
)


def build_data_docs(run: Run, *, title: str, facts: Mapping[str, str]) -> Path:
    """Write the pages of all suites checked so far to `data_docs` below the run's folder; return the index page.

    `facts` stand at the head of the index: name -> value.
    """
    target = run.folder / "data_docs"
    shutil.rmtree(target, ignore_errors=True)
    run.context.add_data_docs_site(
        site_name=SITE,
        site_config={
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(target.resolve())},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    run.context.build_data_docs(site_names=[SITE])
    shutil.rmtree(target / "static")
    for page in target.rglob("*.html"):
        page.write_text(page_without_network(page.read_text(encoding="utf-8")), encoding="utf-8")
    pages = {page.parts[-4]: page.relative_to(target).as_posix() for page in target.glob("validations/*/*/*/*.html")}
    index = target / "index.html"
    index.write_text(index_page(title, facts, run.checked, pages), encoding="utf-8")
    return index


def page_without_network(page: str) -> str:
    """A page of Great Expectations that refers to nothing outside itself but its sister pages."""
    for pattern in _DROPPED:
        page = pattern.sub("", page)
    page = re.sub(r'<a href="[^"]*index\.html">\s*</a>', "", page, count=1)  # the logo stood there
    return page.replace("</head>", f"{_head()}</head>", 1)


def index_page(title: str, facts: Mapping[str, str], checked: Sequence[Checked], pages: Mapping[str, str]) -> str:
    """The page one opens: facts, then every rule of every suite, failed ones first; `pages` is suite -> address of its result."""
    outcomes = [(result.suite, outcome) for result in checked for outcome in result.outcomes]
    outcomes.sort(key=lambda pair: _WORSE.index(_state(pair[1])))
    counts = {state: sum(_state(outcome) == state for _, outcome in outcomes) for state in _WORSE}
    numbers = {**facts, "rules checked": f"{len(outcomes)}", "critical": f"{counts['critical']}", "warnings": f"{counts['warning']}"}
    shown = "".join(f"<li><b>{escape(value)}</b>{escape(name)}</li>" for name, value in numbers.items())
    rows = "".join(_row(suite, outcome, pages.get(suite, "")) for suite, outcome in outcomes)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title>{_head()}</head><body><main><h1>{escape(title)}</h1><ul class="facts">{shown}</ul>'
        '<div class="scroll"><table><thead><tr><th>state</th><th>checked on</th><th>rule</th><th>what holds</th><th class="number">broken by</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></main></body></html>\n"
    )


_WORSE: Final = ("critical", "warning", "passed")
_MARKS: Final = {"critical": "✗ critical", "warning": "! warning", "passed": "✓ passed"}


def _state(outcome: Outcome) -> str:
    return "passed" if outcome.success else outcome.severity


def _row(suite: str, outcome: Outcome, page: str) -> str:
    state = _state(outcome)
    advice = f'<br><span class="quiet">{escape(outcome.error or outcome.advice)}</span>' if not outcome.success else ""
    failed = f"{outcome.num_failed:,}" if outcome.num_failed else ""
    return (
        f'<tr><td class="mark {state}">{_MARKS[state]}</td><td class="name"><a href="{escape(page)}">{escape(suite)}</a></td>'
        f'<td class="name"><code>{escape(outcome.rule)}</code></td><td>{escape(outcome.description)}{advice}</td><td class="number">{failed}</td></tr>'
    )


def _head() -> str:
    return f'<link rel="icon" href="data:,"><style>{_STYLE}</style><script>{_SCRIPT}</script>'
