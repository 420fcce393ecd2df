"""What other frameworks call what is here, for whoever asks for it by their name."""

from __future__ import annotations

import dis
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from types import FrameType

SCALARS = "ScalarLogger and one line"

#: Names that users of fastai, Lightning, Keras, torchmetrics and others would import, and what to take here.
PLUGIN_WORDS = {
    "Accuracy": "accuracy",
    "AUC": "AUROC",
    "BackboneFinetuning": "learn.fine_tune(...)",
    "BatchSizeFinder": "learn.find_batch_size()",
    "BnFreeze": "BatchNormFreeze",
    "CancelBackwardException": "CancelBatch",
    "CancelValidException": "CancelValidate",
    "CometCallback": SCALARS,
    "CometLogger": SCALARS,
    "CrossEntropyLossFlat": "torch.nn.CrossEntropyLoss",
    "Data": "from learner import Data",
    "DeviceStatsMonitor": "DeviceStats",
    "EMAWeightAveraging": "EMA",
    "ExponentialMovingAverage": "EMA",
    "F1Score": "F1",
    "GradientClipping": "GradientClip",
    "HookCallback": "Hooks",
    "LRFinder": "learn.lr_find()",
    "LRScheduler": "TorchScheduler",
    "LabelSmoothing": "LabelMix",
    "LabelSmoothingCrossEntropy": "torch.nn.CrossEntropyLoss(label_smoothing=0.1), or LabelMix",
    "LambdaCallback": "on",
    "Learner": "from learner import Learner",
    "LearningRateFinder": "learn.lr_find()",
    "LearningRateMonitor": "LRMonitor",
    "LearningRateScheduler": "TorchScheduler or ParamScheduler",
    "MLFlowLogger": SCALARS,
    "MSELossFlat": "torch.nn.MSELoss",
    "MeanAbsoluteError": "MAE",
    "MeanSquaredError": "MSE",
    "ModelCheckpoint": "Checkpoint",
    "ModelResetter": "RNNReset",
    "ModelSummary": "learn.check()",
    "NeptuneLogger": SCALARS,
    "OneCycle": "learn.fit_one_cycle(...)",
    "OneCycleLR": "learn.fit_one_cycle(...), or TorchScheduler",
    "OneCycleScheduler": "learn.fit_one_cycle(...)",
    "PearsonCorrCoef": "PearsonCorr",
    "ProgbarLogger": "Progress",
    "ProgressBar": "Progress",
    "ROCAUC": "AUROC",
    "R2Score": "R2",
    "RichProgressBar": "Progress",
    "RNNCallback": "RNNRegularizer",
    "RocAuc": "AUROC",
    "RocAucBinary": "AUROC",
    "SaveModel": "Checkpoint",
    "SaveModelCallback": "Checkpoint",
    "ShowGraphCallback": "learn.history.plot()",
    "StochasticWeightAveraging": "SWA",
    "TQDMProgressBar": "Progress",
    "TensorBoardLogger": "TensorBoard",
    "TerminateOnNaN": "StopOnNaN, which is there by default",
    "TerminateOnNaNCallback": "StopOnNaN, which is there by default",
    "ThroughputMonitor": "Throughput",
    "TrackerCallback": "Best",
    "TrainEvalCallback": "nothing: it is built in",
    "WandbCallback": SCALARS,
    "WandbLogger": SCALARS,
    "WeightAveraging": "EMA or SWA",
    "error_rate": "accuracy, or a function: 1 - accuracy(preds, targets)",
    "top_k_accuracy": "TopKAccuracy(k)",
}


def meant_instead(name: str, ours: Iterable[str], words: Mapping[str, str]) -> str | None:
    """What to take in place of a name that is not there; None where nothing can be told for sure.

    That is another framework's word, one of ours in other capitals, or one of ours with an ending of
    fastai's, as `EarlyStoppingCallback` and `CancelFitException` have it.
    """
    if name in words:
        return words[name]
    by_lower = {each.lower(): each for each in ours}
    bare = name.lower().replace("_", "")
    tried = (name.lower(), bare, bare.removesuffix("callback"), bare.removesuffix("exception"))
    return next((by_lower[word] for word in tried if word in by_lower), None)


def missing_callback(
    name: str, ours: Iterable[str], annealers: Iterable[str], frame: FrameType
) -> ImportError | AttributeError:
    """The error for a name that `callbacks` lacks; see `missing`.

    Args:
        name: what was asked for.
        ours: the names of `callbacks`.
        annealers: the names of `callbacks.annealers`.
        frame: the frame that uses the name.
    """
    if name.startswith("_") or find_spec(f"callbacks.{name}"):  # a module that is not imported yet
        meant = None
    elif name in annealers:
        meant = f"from callbacks.annealers import {name}"
    else:
        meant = meant_instead(name, ours, PLUGIN_WORDS)
    return missing("callbacks", name, meant, frame)


def missing(module: str, name: str, meant: str | None, asking: FrameType) -> ImportError | AttributeError:
    """The error for a name that a module lacks.

    Args:
        module: its name.
        name: what was asked for.
        meant: its name here; None if it is not known for certain.
        asking: the frame that uses the name.

    Returns:
        An AttributeError, so that `hasattr` is False; an ImportError where a `from ... import` asks, as it
        hides the message of an AttributeError.
    """
    if meant is None:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    message = f"there is no {module}.{name}. Here it is: {meant}."
    if dis.opname[asking.f_code.co_code[asking.f_lasti]] == "IMPORT_FROM":
        return ImportError(message, name=module)
    return AttributeError(message, name=name)
