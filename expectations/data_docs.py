"""Data Docs: what was checked and what was found, as pages that open without a network."""

from pathlib import Path
from typing import Final

from expectations.engine import Run

SITE: Final = "local"


def build_data_docs(run: Run) -> Path:
    """Write the pages of all suites checked so far to `data_docs` below the run's folder; return the index page."""
    target = run.folder / "data_docs"
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
    return target / "index.html"
