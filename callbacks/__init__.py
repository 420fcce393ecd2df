"""The ground floor: the contract of a plug-in, and the plug-ins. It imports no `learner`."""

from typing import TYPE_CHECKING, Any

from callbacks.accumulation import GradientAccumulation
from callbacks.activations import ActivationStats
from callbacks.blackbox import BlackBox
from callbacks.budgets import OverfitBatch, ShortEpoch, StopAfter, ValidateEvery
from callbacks.checkpoint import Checkpoint
from callbacks.closures import SAM, ClosureStep
from callbacks.contract import (
    EVENTS,
    OPERATIONS,
    Callback,
    Cancel,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    Direction,
    LearnerProtocol,
    LearnerWarning,
    Order,
    on,
)
from callbacks.device import DevicePlacement
from callbacks.ema import EMA
from callbacks.fast.lean_step import LeanStep
from callbacks.flow import GradientFlow
from callbacks.gradient import GradientClip, ZeroGrad
from callbacks.history import History
from callbacks.layout import ChannelsLast, Compile
from callbacks.loggers import CSVLogger
from callbacks.measures.class_counts import F1, Precision, Recall
from callbacks.measures.classification import TopKAccuracy, accuracy
from callbacks.measures.perplexity import Perplexity
from callbacks.measures.ranking import AUROC, NDCG, MeanReciprocalRank
from callbacks.measures.scores import MAE, MSE, R2, RMSE, ExplainedVariance, PearsonCorr
from callbacks.measures.whole_pass import whole_pass
from callbacks.metrics import Metric, Metrics
from callbacks.mixing import CutMix, LabelMix, MixUp
from callbacks.modes import BatchNormFreeze, MCDropout
from callbacks.monitors import DeviceStats, GradientNorms, LRMonitor, Throughput
from callbacks.noise import StochasticDepth, WeightNoise
from callbacks.numbers import StopOnNaN, StopOnNaNGradient
from callbacks.optimizers import Optimizers
from callbacks.param_scheduler import ParamScheduler
from callbacks.parts.best import Best
from callbacks.parts.every import Every
from callbacks.parts.hooks import Hooks
from callbacks.plateau import ReduceLROnPlateau
from callbacks.precision import MixedPrecision
from callbacks.profile import Profile
from callbacks.progress import LogRMSE, Progress
from callbacks.pruning import OptunaPruning
from callbacks.recompute import ActivationCheckpointing
from callbacks.recorder import Recorder
from callbacks.recurrent import RNNRegularizer, RNNReset
from callbacks.registry import Callbacks
from callbacks.scalar_loggers import JSONLines, ScalarLogger, TensorBoard
from callbacks.schedule import TorchScheduler
from callbacks.snapshots import PlotSnapshots
from callbacks.stopping import EarlyStopping
from callbacks.surface import LossSurface
from callbacks.swa import SWA
from callbacks.timer import Timer
from callbacks.updates import WeightUpdates
from callbacks.when import When
from callbacks.whole import WholeStep

__all__ = [
    "AUROC",
    "EMA",
    "EVENTS",
    "F1",
    "MAE",
    "MSE",
    "NDCG",
    "OPERATIONS",
    "R2",
    "RMSE",
    "SAM",
    "SWA",
    "ActivationCheckpointing",
    "ActivationStats",
    "BatchNormFreeze",
    "Best",
    "BlackBox",
    "CSVLogger",
    "Callback",
    "Callbacks",
    "Cancel",
    "CancelBatch",
    "CancelEpoch",
    "CancelFit",
    "CancelStep",
    "CancelTrain",
    "CancelValidate",
    "ChannelsLast",
    "Checkpoint",
    "ClosureStep",
    "Compile",
    "CutMix",
    "DevicePlacement",
    "DeviceStats",
    "Direction",
    "EarlyStopping",
    "Every",
    "ExplainedVariance",
    "GradientAccumulation",
    "GradientClip",
    "GradientFlow",
    "GradientNorms",
    "History",
    "Hooks",
    "JSONLines",
    "LRMonitor",
    "LabelMix",
    "LeanStep",
    "LearnerProtocol",
    "LearnerWarning",
    "LogRMSE",
    "LossSurface",
    "MCDropout",
    "MeanReciprocalRank",
    "Metric",
    "Metrics",
    "MixUp",
    "MixedPrecision",
    "Optimizers",
    "OptunaPruning",
    "Order",
    "OverfitBatch",
    "ParamScheduler",
    "PearsonCorr",
    "Perplexity",
    "PlotSnapshots",
    "Precision",
    "Profile",
    "Progress",
    "RNNRegularizer",
    "RNNReset",
    "Recall",
    "Recorder",
    "ReduceLROnPlateau",
    "ScalarLogger",
    "ShortEpoch",
    "StochasticDepth",
    "StopAfter",
    "StopOnNaN",
    "StopOnNaNGradient",
    "TensorBoard",
    "Throughput",
    "Timer",
    "TopKAccuracy",
    "TorchScheduler",
    "ValidateEvery",
    "WeightNoise",
    "WeightUpdates",
    "When",
    "WholeStep",
    "ZeroGrad",
    "accuracy",
    "on",
    "whole_pass",
]

if not TYPE_CHECKING:  # a type checker would take it that every name is there

    def __getattr__(name: str) -> Any:
        """For a name that is missing: say what it is called here, also where it is imported."""
        import sys
        from importlib.util import find_spec

        from callbacks import annealers
        from callbacks.other_words import PLUGIN_WORDS, meant_instead, missing

        if name.startswith("_") or find_spec(f"callbacks.{name}"):  # a module, yet to be imported
            meant = None
        elif name in annealers.__all__:
            meant = f"from callbacks.annealers import {name}"
        else:
            meant = meant_instead(name, __all__, PLUGIN_WORDS)
        raise missing("callbacks", name, meant, sys._getframe(1))
