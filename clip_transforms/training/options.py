"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from clip_transforms.elements import RequestError
from clip_transforms.training.augment import AugmentOptions
from clip_transforms.training.captions import CaptionOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """The options of one run. Raises RequestError for impossible ones."""

    steps: int = 2000
    batch_size: int = 256  # pictures a step, over all processes
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup: int = 200  # steps
    image_weight: float = 0.5  # of the image-image term; 0 leaves it out
    concept_weight: float = 0.5  # of the term against the learnt vectors of all concepts; 0 leaves it out
    average: float = 0.998  # decay of the averaged weights that are exported; 0: the last weights
    freeze: tuple[str, ...] = ()  # towers: image, text
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"  # or bf16, with CUDA
    threads: int = 1  # a process
    processes: int = 1  # on the CPU; their gradients are averaged
    checkpoint_seconds: float = 300.0
    report_steps: int = 20
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    captions: CaptionOptions = field(default_factory=CaptionOptions)

    def __post_init__(self) -> None:
        """Check the values."""
        for name, low in (("steps", 1), ("batch_size", 2), ("warmup", 0), ("threads", 1), ("processes", 1)):
            if getattr(self, name) < low:
                flag = "--" + name.replace("_", "-")
                raise RequestError(f"{flag} {getattr(self, name)}: expected {low} or more")
        if self.batch_size // self.processes < 2:
            raise RequestError(
                f"--batch-size {self.batch_size} over --processes {self.processes}: "
                "each needs 2 pictures or more"
            )
        if self.learning_rate <= 0:
            raise RequestError(f"--learning-rate {self.learning_rate}: expected a number above 0")
        if not 0 <= self.average < 1:
            raise RequestError(f"--average {self.average}: expected a number from 0 to below 1")
        if set(self.freeze) == {"image", "text"}:
            raise RequestError("--freeze image text: with both towers frozen there is nothing to train")
        if self.precision == "bf16" and not self.device.startswith("cuda"):
            raise RequestError("--precision bf16 needs --device cuda: on the CPU it is slower than fp32")
        if self.processes > 1 and self.device != "cpu":
            raise RequestError(f"--processes {self.processes} is for the CPU, not for --device {self.device}")
