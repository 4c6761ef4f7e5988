"""What a distilling process needs, as JSON. Free of torch, so that tasks can build one."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.artifacts import text_digest
from contracts.sections.training import OptimizerConfig


class DistilJob(BaseModel):
    """Train a narrow encoder to give the queries of a bundle's own one.

    The folder it leaves: `encoder.onnx` with the inputs and the output of the bundle's, `result.json`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["distil"] = "distil"
    inputs_digest: Annotated[str, Field(min_length=8, description="Digest of the bundle: the same job on another bundle is another job.")]
    seed: Annotated[int, Field(ge=0, description="Seed of everything random.")] = 0
    bundle: Annotated[str, Field(description="Folder of the bundle; its encoder is the teacher, its histories are what both see.")]
    width: Annotated[int, Field(ge=4, description="Width of the student's vectors.")] = 16
    num_blocks: Annotated[int, Field(ge=1, description="Blocks of the student.")] = 1
    num_examples: Annotated[int, Field(ge=64, description="Beginnings of histories the teacher is asked for; a tenth is held out.")] = 20_000
    batch_examples: Annotated[int, Field(ge=1, description="Examples in one step.")] = 256
    epochs: Annotated[int, Field(ge=1, description="Passes over the examples.")] = 8
    max_gap_days: Annotated[int, Field(ge=0, description="Largest number of days from the last event to the request.")] = 84
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-3, weight_decay=0.0, warm_up_steps=0)

    def digest(self) -> str:
        """16 hex digits over every field; the bundle counts by content (`inputs_digest`) as well as by name."""
        return text_digest(self.model_dump_json())
