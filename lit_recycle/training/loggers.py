"""Texts and pictures in loggers: what each kind of logger holds besides scalars.

| logger            | texts and pictures           | numbers behind pictures |
|-------------------|------------------------------|-------------------------|
| TensorBoardLogger | pages of their own           | tensors                 |
| WandbLogger       | HTML, images                 | –                       |
| MLFlowLogger      | artifacts                    | –                       |
| CSVLogger         | files beside ``metrics.csv`` | ``.npy`` files          |
"""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning as L
import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor
from typing_extensions import override

from lit_recycle.training.tensorboard import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


class Picture(NamedTuple):
    """A figure, together with the numbers in it, which `lit-recycle report` reads."""

    tag: str
    data: Tensor
    draw: Callable[[], Figure]

    def image(self) -> Image:
        """The figure in pixels: most of the work, done once for all loggers."""
        import PIL.Image
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(self.draw())
        canvas.draw()
        return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


class Held(ABC):
    """What one logger holds of texts and pictures."""

    @abstractmethod
    def text(self, tag: str, text: str, step: int) -> None:
        """Markdown."""

    @abstractmethod
    def picture(self, picture: Picture, image: Image, step: int) -> None:
        """A figure in pixels, and its numbers where there is a place for them."""

    def array(self, tag: str, data: Tensor, step: int) -> None:  # noqa: B027 (not every logger has a place for them)
        """Numbers without a figure."""


class InTensorBoard(Held):
    def __init__(self, logger: TensorBoardLogger) -> None:
        self.writer = logger.experiment

    @override
    def text(self, tag: str, text: str, step: int) -> None:
        write_text(self.writer, tag, text, step)

    @override
    def picture(self, picture: Picture, image: Image, step: int) -> None:
        self.array(f"{picture.tag}/data", picture.data, step)
        self.writer.add_image(picture.tag, np.asarray(image), step, dataformats="HWC")

    @override
    def array(self, tag: str, data: Tensor, step: int) -> None:
        self.writer.add_tensor(tag, data, step)


class InWandb(Held):
    def __init__(self, logger: WandbLogger) -> None:
        self.logger = logger

    @override
    def text(self, tag: str, text: str, step: int) -> None:
        import wandb

        self.logger.log_metrics({tag: wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step)  # type: ignore[dict-item]

    @override
    def picture(self, picture: Picture, image: Image, step: int) -> None:
        import wandb

        self.logger.log_metrics({picture.tag: wandb.Image(image)}, step)  # type: ignore[dict-item]


class InMLflow(Held):
    def __init__(self, logger: MLFlowLogger) -> None:
        self.client, self.run = logger.experiment, logger.run_id

    @override
    def text(self, tag: str, text: str, step: int) -> None:
        self.client.log_text(self.run, text, f"{tag}/step={step}.md")

    @override
    def picture(self, picture: Picture, image: Image, step: int) -> None:
        self.client.log_image(self.run, image, f"{picture.tag}/step={step}.png")


class InFiles(Held):
    """Files in the folder of a CSVLogger: ``texts/<tag>/step=<n>.md``, ``pictures/….png``, ``arrays/….npy``."""

    def __init__(self, logger: CSVLogger) -> None:
        self.folder = Path(logger.log_dir)

    def _file(self, kind: str, tag: str, step: int, ending: str) -> Path:
        path = self.folder / kind / tag / f"step={step}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @override
    def text(self, tag: str, text: str, step: int) -> None:
        self._file("texts", tag, step, ".md").write_text(text)

    @override
    def picture(self, picture: Picture, image: Image, step: int) -> None:
        self.array(picture.tag, picture.data, step)
        image.save(self._file("pictures", picture.tag, step, ".png"))

    @override
    def array(self, tag: str, data: Tensor, step: int) -> None:
        np.save(self._file("arrays", tag, step, ".npy"), data.numpy(), allow_pickle=False)


HOLDERS: dict[type[Logger], Callable[[Any], Held]] = {
    TensorBoardLogger: InTensorBoard,
    WandbLogger: InWandb,
    MLFlowLogger: InMLflow,
    CSVLogger: InFiles,
}


def holders(trainer: L.Trainer) -> list[Held]:
    """Where texts and pictures of a run go; nowhere on other processes than the first."""
    if not trainer.is_global_zero:
        return []
    return [made(logger) for logger in trainer.loggers for kind, made in HOLDERS.items() if isinstance(logger, kind)]
