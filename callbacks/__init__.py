"""Lightning callbacks of lit-recycle, one per file."""

from callbacks.compute import ComputeMonitor
from callbacks.expert_load import ExpertLoadMonitor
from callbacks.growth import GrowthCallback
from callbacks.growth_monitor import GrowthMonitor
from callbacks.progress import RunProgressBar
from callbacks.run_record import RunRecord
from callbacks.tensorboard import TensorBoardLayout
from callbacks.weight_norm import WeightNormMonitor

__all__ = [
    "ComputeMonitor",
    "ExpertLoadMonitor",
    "GrowthCallback",
    "GrowthMonitor",
    "RunProgressBar",
    "RunRecord",
    "TensorBoardLayout",
    "WeightNormMonitor",
]
