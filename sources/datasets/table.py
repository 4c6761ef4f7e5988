"""Any log of behaviour, read as the configuration maps it."""

from contracts.sections.source import SourceConfig
from sources.datasets.declaration import Declaration


def declare(source: SourceConfig) -> Declaration:
    """The configuration says all."""
    return Declaration(source)
