"""A smaller form of a bundle: taste vectors of eight bits a number, linear tables of sixteen.

The compressed bundle is served by the same `Recommender`, so a list from the service, the registered model and the published table stays
the same list; whether the form is good enough is a question for the gate (`list_overlap`, and the protocol's measures).
"""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from contracts import columns as c
from contracts.artifacts import BundleRef
from serving.bundle import FORECASTS, HABITS, HISTORIES, ITEM_CATALOGUE, ITEM_WEEKS, NETWORKS, VOCABULARY, read_bundle, write_bundle
from serving.item_tables import SCALE_SUFFIX, compact

FORM: Final = "item_tables"
COMPRESSED: Final = "taste int8, linear float16"


def compress_bundle(folder: Path, target: Path) -> BundleRef:
    """Write a copy of a bundle to `target` whose taste vectors have eight bits and whose linear tables have sixteen; its notes say so.

    Raises BundleError where `folder` is no bundle.
    """
    bundle = read_bundle(folder)
    with tempfile.TemporaryDirectory(dir=target.parent) as draft:
        networks = Path(draft) / NETWORKS
        networks.mkdir()
        for path in (bundle.folder / NETWORKS).iterdir():
            if path.suffix != ".safetensors":
                (networks / path.name).write_bytes(path.read_bytes())
        save_file(_compacted(load_file(bundle.network("vectors.safetensors"))), networks / "vectors.safetensors")
        return write_bundle(
            target,
            networks=networks,
            vocabulary=bundle.table(VOCABULARY),
            item_catalogue=bundle.table(ITEM_CATALOGUE),
            histories=bundle.table(HISTORIES),
            habits=bundle.table(HABITS),
            item_weeks=bundle.table(ITEM_WEEKS),
            forecasts=bundle.table(FORECASTS) if bundle.has_table(FORECASTS) else None,
            metadata=bundle.metadata.model_copy(update={"notes": {**bundle.metadata.notes, FORM: COMPRESSED}}),
        )


def list_overlap(one: pl.DataFrame, other: pl.DataFrame) -> float:
    """Mean share of a user's items that two rankings tables have in common: recall of the one's top k in the other's."""
    both = one.join(other, on=[c.USER_ID, c.LIST, c.REQUEST_DATE, c.ITEM_ID], how="semi")
    return both.height / one.height if one.height else 1.0


def size_bytes(folder: Path) -> int:
    """Bytes of all files of a bundle."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _compacted(tables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Taste vectors as int8 and scales, linear tables in half precision; everything else as it was.

    Linear tables do not bear eight bits: near zero their logarithm magnifies the rounding (95 % of a discover list stays on Complete Journey).
    """
    found: dict[str, np.ndarray] = {}
    for name, table in tables.items():
        if name == "taste_items":
            found[name], found[name + SCALE_SUFFIX] = compact(table.astype(np.float32))
        elif name.startswith("linear_") and name.endswith("_out"):
            found[name] = table.astype(np.float16)
        else:
            found[name] = table
    return found
