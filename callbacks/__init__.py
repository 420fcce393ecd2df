"""The ground floor: the contract of a plug-in, and the plug-ins. It imports no `learner`."""

from typing import TYPE_CHECKING, Any

from callbacks.core.contract import (
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
from callbacks.core.every import Every
from callbacks.core.history import History
from callbacks.core.registry import Callbacks
from callbacks.core.when import When
from callbacks.fast.lean_step import LeanStep
from callbacks.guard.blackbox import BlackBox
from callbacks.guard.pruning import OptunaPruning
from callbacks.guard.stop_on_nan import StopOnNaN, StopOnNaNGradient
from callbacks.guard.stopping import EarlyStopping
from callbacks.inspect.activations import ActivationStats
from callbacks.inspect.flow import GradientFlow
from callbacks.inspect.prediction_plots import PlotSnapshots
from callbacks.inspect.surface import LossSurface
from callbacks.inspect.weight_updates import WeightUpdates
from callbacks.measures.class_counts import F1, Precision, Recall
from callbacks.measures.classification import TopKAccuracy, accuracy
from callbacks.measures.perplexity import Perplexity
from callbacks.measures.ranking import AUROC, NDCG, MeanReciprocalRank
from callbacks.measures.scores import MAE, MSE, R2, RMSE, ExplainedVariance, PearsonCorr
from callbacks.measures.whole_pass import whole_pass
from callbacks.optim.optimizers import Optimizers
from callbacks.place.device import DevicePlacement
from callbacks.place.hooks import Hooks
from callbacks.place.layout import ChannelsLast, Compile
from callbacks.place.recompute import ActivationCheckpointing
from callbacks.record.loggers import CSVLogger
from callbacks.record.metrics import Metric, Metrics
from callbacks.record.monitors import DeviceStats, GradientNorms, LRMonitor, Throughput
from callbacks.record.profile import Profile
from callbacks.record.progress import LogRMSE, Progress
from callbacks.record.recorder import Recorder
from callbacks.record.scalar_loggers import JSONLines, ScalarLogger, TensorBoard
from callbacks.record.timer import Timer
from callbacks.results.best import Best
from callbacks.save.checkpoint import Checkpoint
from callbacks.schedule.budgets import OverfitBatch, ShortEpoch, StopAfter, ValidateEvery
from callbacks.schedule.param_scheduler import ParamScheduler
from callbacks.schedule.plateau import ReduceLROnPlateau
from callbacks.schedule.torch_scheduler import TorchScheduler
from callbacks.step.accumulation import GradientAccumulation
from callbacks.step.closures import SAM, ClosureStep
from callbacks.step.ema import EMA
from callbacks.step.gradient import GradientClip, ZeroGrad
from callbacks.step.mixing import CutMix, LabelMix, MixUp
from callbacks.step.modes import BatchNormFreeze, MCDropout
from callbacks.step.noise import StochasticDepth, WeightNoise
from callbacks.step.precision import MixedPrecision
from callbacks.step.recurrent import RNNRegularizer, RNNReset
from callbacks.step.swa import SWA
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

        from callbacks.core.foreign_names import PLUGIN_WORDS, meant_instead, missing
        from callbacks.schedule import annealers

        if name.startswith("_") or find_spec(f"callbacks.{name}"):  # a module, yet to be imported
            meant = None
        elif name in annealers.__all__:
            meant = f"from callbacks.annealers import {name}"
        else:
            meant = meant_instead(name, __all__, PLUGIN_WORDS)
        raise missing("callbacks", name, meant, sys._getframe(1))
