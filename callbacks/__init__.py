"""The ground floor: the contract of a callback, and the callbacks. It imports nothing of `learner`."""

import sys as _sys
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING

from callbacks.core.contract import EVENTS as EVENTS
from callbacks.core.contract import OPERATIONS as OPERATIONS
from callbacks.core.contract import Callback as Callback
from callbacks.core.contract import Cancel as Cancel
from callbacks.core.contract import CancelBatch as CancelBatch
from callbacks.core.contract import CancelEpoch as CancelEpoch
from callbacks.core.contract import CancelFit as CancelFit
from callbacks.core.contract import CancelStep as CancelStep
from callbacks.core.contract import CancelTrain as CancelTrain
from callbacks.core.contract import CancelValidate as CancelValidate
from callbacks.core.contract import Direction as Direction
from callbacks.core.contract import LearnerProtocol as LearnerProtocol
from callbacks.core.contract import LearnerWarning as LearnerWarning
from callbacks.core.contract import Order as Order
from callbacks.core.every import Every as Every
from callbacks.core.given import on as on
from callbacks.core.missing_names import missing_callback as _missing_callback
from callbacks.core.registry import Callbacks as Callbacks
from callbacks.core.when import When as When
from callbacks.distributed.distributed import Distributed as Distributed
from callbacks.distributed.rendezvous import OtherRankError as OtherRankError
from callbacks.fast.lean_step import LeanStep as LeanStep
from callbacks.fast.whole_step import WholeStep as WholeStep
from callbacks.guard.blackbox import BlackBox as BlackBox
from callbacks.guard.pruning import OptunaPruning as OptunaPruning
from callbacks.guard.stop_on_nan import StopOnNaN as StopOnNaN
from callbacks.guard.stop_on_nan import StopOnNaNGradient as StopOnNaNGradient
from callbacks.guard.stopping import EarlyStopping as EarlyStopping
from callbacks.history.history import History as History
from callbacks.inspect.activations import ActivationStats as ActivationStats
from callbacks.inspect.flow import GradientFlow as GradientFlow
from callbacks.inspect.prediction_plots import PlotSnapshots as PlotSnapshots
from callbacks.inspect.surface import LossSurface as LossSurface
from callbacks.inspect.weight_updates import WeightUpdates as WeightUpdates
from callbacks.measures.as_metrics import Metric as Metric
from callbacks.measures.class_counts import F1 as F1
from callbacks.measures.class_counts import Precision as Precision
from callbacks.measures.class_counts import Recall as Recall
from callbacks.measures.classification import TopKAccuracy as TopKAccuracy
from callbacks.measures.classification import accuracy as accuracy
from callbacks.measures.perplexity import Perplexity as Perplexity
from callbacks.measures.ranking import AUROC as AUROC
from callbacks.measures.ranking import NDCG as NDCG
from callbacks.measures.ranking import MeanReciprocalRank as MeanReciprocalRank
from callbacks.measures.scores import MAE as MAE
from callbacks.measures.scores import MSE as MSE
from callbacks.measures.scores import R2 as R2
from callbacks.measures.scores import RMSE as RMSE
from callbacks.measures.scores import ExplainedVariance as ExplainedVariance
from callbacks.measures.scores import PearsonCorr as PearsonCorr
from callbacks.measures.whole_pass import whole_pass as whole_pass
from callbacks.optim.optimizers import Optimizers as Optimizers
from callbacks.place.device import DevicePlacement as DevicePlacement
from callbacks.place.hooks import Hooks as Hooks
from callbacks.place.layout import ChannelsLast as ChannelsLast
from callbacks.place.layout import Compile as Compile
from callbacks.place.recompute import ActivationCheckpointing as ActivationCheckpointing
from callbacks.record.loggers import CSVLogger as CSVLogger
from callbacks.record.metrics import Metrics as Metrics
from callbacks.record.monitors import DeviceStats as DeviceStats
from callbacks.record.monitors import GradientNorms as GradientNorms
from callbacks.record.monitors import LRMonitor as LRMonitor
from callbacks.record.monitors import Throughput as Throughput
from callbacks.record.profile import Profile as Profile
from callbacks.record.progress import LogRMSE as LogRMSE
from callbacks.record.progress import Progress as Progress
from callbacks.record.recorder import Recorder as Recorder
from callbacks.record.scalar_loggers import JSONLines as JSONLines
from callbacks.record.scalar_loggers import ScalarLogger as ScalarLogger
from callbacks.record.scalar_loggers import TensorBoard as TensorBoard
from callbacks.record.timer import Timer as Timer
from callbacks.results.best import Best as Best
from callbacks.save.checkpoint import Checkpoint as Checkpoint
from callbacks.schedule import annealers as _annealers
from callbacks.schedule.budgets import OverfitBatch as OverfitBatch
from callbacks.schedule.budgets import ShortEpoch as ShortEpoch
from callbacks.schedule.budgets import StopAfter as StopAfter
from callbacks.schedule.param_scheduler import ParamScheduler as ParamScheduler
from callbacks.schedule.plateau import ReduceLROnPlateau as ReduceLROnPlateau
from callbacks.schedule.torch_scheduler import TorchScheduler as TorchScheduler
from callbacks.schedule.validate_every import ValidateEvery as ValidateEvery
from callbacks.step.accumulation import GradientAccumulation as GradientAccumulation
from callbacks.step.closures import SAM as SAM
from callbacks.step.closures import ClosureStep as ClosureStep
from callbacks.step.ema import EMA as EMA
from callbacks.step.gradient import GradientClip as GradientClip
from callbacks.step.gradient import ZeroGrad as ZeroGrad
from callbacks.step.mixing import CutMix as CutMix
from callbacks.step.mixing import LabelMix as LabelMix
from callbacks.step.mixing import MixUp as MixUp
from callbacks.step.modes import BatchNormFreeze as BatchNormFreeze
from callbacks.step.modes import MCDropout as MCDropout
from callbacks.step.noise import StochasticDepth as StochasticDepth
from callbacks.step.noise import WeightNoise as WeightNoise
from callbacks.step.precision import MixedPrecision as MixedPrecision
from callbacks.step.recurrent import RNNRegularizer as RNNRegularizer
from callbacks.step.recurrent import RNNReset as RNNReset
from callbacks.step.swa import SWA as SWA

if not _TYPE_CHECKING:  # a type checker reads the imports, and would assume that every name exists
    __all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll]
        name for name, each in globals().items() if name[0] != "_" and not isinstance(each, _ModuleType)
    )

    def __getattr__(name: str) -> object:
        """Raise an error for a missing name, with its name here if another framework has it."""
        raise _missing_callback(name, __all__, _annealers.__all__, _sys._getframe(1))
