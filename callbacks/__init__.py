"""Lightning callbacks of lit-recycle, one per file."""

from lit_recycle.callbacks.async_save import AsyncSave
from lit_recycle.callbacks.batch_size import BatchSizeWarmup
from lit_recycle.callbacks.compute import ComputeMonitor
from lit_recycle.callbacks.data import DataMonitor
from lit_recycle.callbacks.downstream import DownstreamEval
from lit_recycle.callbacks.end import SaveAtEnd
from lit_recycle.callbacks.expert_load import ExpertLoadMonitor
from lit_recycle.callbacks.forgetting import ForgettingMonitor
from lit_recycle.callbacks.growth import GrowthCallback
from lit_recycle.callbacks.growth_monitor import GrowthMonitor
from lit_recycle.callbacks.magnitude_pruning import MagnitudePruning
from lit_recycle.callbacks.progress import RunProgressBar
from lit_recycle.callbacks.run_record import RunRecord
from lit_recycle.callbacks.sequence_length import SequenceLengthWarmup
from lit_recycle.callbacks.summary import RunSummary
from lit_recycle.callbacks.tensorboard import TensorBoardLayout
from lit_recycle.callbacks.text_samples import TextSamples
from lit_recycle.callbacks.token_losses import TokenLossWriter
from lit_recycle.callbacks.waiting import WaitingTime
from lit_recycle.callbacks.weight_norm import WeightNormMonitor

__all__ = [
    "AsyncSave",
    "BatchSizeWarmup",
    "ComputeMonitor",
    "DataMonitor",
    "DownstreamEval",
    "ExpertLoadMonitor",
    "ForgettingMonitor",
    "GrowthCallback",
    "GrowthMonitor",
    "MagnitudePruning",
    "RunProgressBar",
    "RunRecord",
    "RunSummary",
    "SaveAtEnd",
    "SequenceLengthWarmup",
    "TensorBoardLayout",
    "TextSamples",
    "TokenLossWriter",
    "WaitingTime",
    "WeightNormMonitor",
]
