"""Errors a user of the pipeline can meet.

PipelineError                    base; `step` says where
|-- SourceError                  a source cannot be read as declared: expected, found, where, what to try   (terminal)
|-- DataContractError            a table broke its suite: table, rule, count, an example row                (terminal)
|-- FeatureLeakageError          a feature reads at or after its cut-off                                    (terminal)
|-- NotEnoughHistoryError        less history than the horizon, one user or one item only                   (terminal)
|-- CheckpointMismatchError      a stage cannot start from these weights                                    (terminal)
|-- TrainingFailedError          the training process ended with an error                                   (terminal)
|-- BundleError                  a stored model cannot be served: format, digest, missing part              (terminal)
|-- RegistryStateError           no version, alias or review as a promotion or a rollback needs it          (terminal)
|-- StudyError                   a search cannot be kept where it should, or looks at windows to report     (terminal)
`-- TransientError               may pass by itself: network, registry, object store                        (retried)
"""

from collections.abc import Mapping, Sequence
from typing import Any


class PipelineError(Exception):
    """Base of all errors below; `step` names the step of the flow that raised it."""

    def __init__(self, message: str, *, step: str | None = None) -> None:
        super().__init__(message)
        self.step = step


class SourceError(PipelineError):
    """A source cannot be read as the configuration says."""


class DataContractError(PipelineError):
    """A table broke a critical rule of its contract."""

    def __init__(
        self,
        message: str,
        *,
        table: str,
        rule: str,
        num_failed: int,
        example_row: Mapping[str, Any] | None = None,
        step: str | None = None,
    ) -> None:
        super().__init__(message, step=step)
        self.table = table
        self.rule = rule
        self.num_failed = num_failed
        self.example_row = dict(example_row) if example_row else None


class FeatureLeakageError(PipelineError):
    """A feature reads at or after the cut-off it was made for."""


class NotEnoughHistoryError(PipelineError):
    """The data are too few for what was asked."""


class CheckpointMismatchError(PipelineError):
    """Weights and configuration do not fit together."""


class TrainingFailedError(PipelineError):
    """The training process ended with an error; keeps its exit code and last log lines."""

    def __init__(self, message: str, *, exit_code: int, last_lines: Sequence[str] = (), step: str | None = None) -> None:
        super().__init__(message, step=step)
        self.exit_code = exit_code
        self.last_lines = tuple(last_lines)


class BundleError(PipelineError):
    """A stored model cannot be served."""


class RegistryStateError(PipelineError):
    """The registry does not hold what a promotion or a rollback needs."""


class StudyError(PipelineError):
    """A search for parameters cannot be kept where the configuration says, or would look at windows that are to be reported."""


class TransientError(PipelineError):
    """May pass by itself; the only error tasks retry."""
