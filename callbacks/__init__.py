"""The ground floor: the contract of a callback, and the callbacks. It imports nothing of `learner`."""

import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

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
from callbacks.core.missing_names import missing_callback as _missing_callback
from callbacks.core.registry import Callbacks
from callbacks.core.when import When
from callbacks.distributed.distributed import Distributed
from callbacks.distributed.joining import OtherRankError
from callbacks.fast.lean_step import LeanStep
from callbacks.fast.whole_step import WholeStep
from callbacks.guard.blackbox import BlackBox
from callbacks.guard.pruning import OptunaPruning
from callbacks.guard.stop_on_nan import StopOnNaN, StopOnNaNGradient
from callbacks.guard.stopping import EarlyStopping
from callbacks.history.history import History
from callbacks.inspect.activations import ActivationStats
from callbacks.inspect.flow import GradientFlow
from callbacks.inspect.prediction_plots import PlotSnapshots
from callbacks.inspect.surface import LossSurface
from callbacks.inspect.weight_updates import WeightUpdates
from callbacks.measures.as_metrics import Metric
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
from callbacks.record.metrics import Metrics
from callbacks.record.monitors import DeviceStats, GradientNorms, LRMonitor, Throughput
from callbacks.record.profile import Profile
from callbacks.record.progress import LogRMSE, Progress
from callbacks.record.recorder import Recorder
from callbacks.record.scalar_loggers import JSONLines, ScalarLogger, TensorBoard
from callbacks.record.timer import Timer
from callbacks.results.best import Best
from callbacks.save.checkpoint import Checkpoint
from callbacks.schedule import annealers as _annealers
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
    "Distributed",
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
    "OtherRankError",
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

if not _TYPE_CHECKING:  # a type checker would assume that every name exists

    def __getattr__(name: str) -> object:
        """Raise an error for a missing name, with its name here if another framework has it."""
        raise _missing_callback(name, __all__, _annealers.__all__, _sys._getframe(1))
