"""Lightning callbacks of lit-recycle, one per file."""

from callbacks.compute import ComputeMonitor
from callbacks.data import DataMonitor
from callbacks.expert_load import ExpertLoadMonitor
from callbacks.forgetting import ForgettingMonitor
from callbacks.growth import GrowthCallback
from callbacks.growth_monitor import GrowthMonitor
from callbacks.progress import RunProgressBar
from callbacks.run_record import RunRecord
from callbacks.tensorboard import TensorBoardLayout
from callbacks.token_losses import TokenLossWriter
from callbacks.waiting import WaitingTime
from callbacks.weight_norm import WeightNormMonitor

__all__ = [
    "ComputeMonitor",
    "DataMonitor",
    "ExpertLoadMonitor",
    "ForgettingMonitor",
    "GrowthCallback",
    "GrowthMonitor",
    "RunProgressBar",
    "RunRecord",
    "TensorBoardLayout",
    "TokenLossWriter",
    "WaitingTime",
    "WeightNormMonitor",
]
