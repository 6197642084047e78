"""Loads what backfill workers share, kernels included; imported once, by the process from which they are forked.

A compiled kernel is loaded when it is first called, and pyarrow imports pandas for its first table: so importing this
module rehearses an engine and makes a table of the rows.
"""

from __future__ import annotations

from pipeline.core.features.table import FEATURES
from pipeline.core.rehearsal import rehearse
from pipeline.drivers import backfill as backfill_worker  # which imports the readers of recordings
from pipeline.edges.store.schema import FeatureSchema, feature_tables, packed

__all__ = ["backfill_worker"]


def _load() -> None:
    rows = rehearse().features
    names, units = zip(*[(feature.name, feature.unit) for feature in FEATURES], strict=True)
    for _, table in feature_tables(rows, FeatureSchema(rows[0].schema, names, units)):
        packed(table)


_load()
