"""Operators: what a growth may do to a model, one class each. No torch."""

from lit_recycle.growth.operators.branch_train_mix import BranchTrainMix
from lit_recycle.growth.operators.duplicate_experts import DuplicateExperts
from lit_recycle.growth.operators.insert_every import InsertEvery
from lit_recycle.growth.operators.interpolate import Interpolate
from lit_recycle.growth.operators.interpose import Interpose
from lit_recycle.growth.operators.layers import Layers
from lit_recycle.growth.operators.middle import Middle
from lit_recycle.growth.operators.random_layers import RandomLayers
from lit_recycle.growth.operators.rotary_base import RotaryBase
from lit_recycle.growth.operators.shrink import DropLayers, PruneExperts, PruneInner
from lit_recycle.growth.operators.solar import Solar
from lit_recycle.growth.operators.stack import Stack
from lit_recycle.growth.operators.upcycle import Upcycle
from lit_recycle.growth.operators.widen import WidenHeads, WidenHidden, WidenInner

__all__ = [
    "BranchTrainMix",
    "DropLayers",
    "DuplicateExperts",
    "InsertEvery",
    "Interpolate",
    "Interpose",
    "Layers",
    "Middle",
    "PruneExperts",
    "PruneInner",
    "RandomLayers",
    "RotaryBase",
    "Solar",
    "Stack",
    "Upcycle",
    "WidenHeads",
    "WidenHidden",
    "WidenInner",
]
