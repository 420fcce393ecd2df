"""The names that other frameworks use: one table for both floors, by the kind of name.

Each line has the name here, then the names elsewhere. `missing_names.py` and `learner/messages` make hints of
it.
"""

from __future__ import annotations

from collections.abc import Mapping

SCALARS = "ScalarLogger and one line"


def by_word(names: Mapping[str, str]) -> dict[str, str]:
    """The name here for each name elsewhere."""
    return {word: ours for ours, words in names.items() for word in words.split()}


#: Hooks, with the event or operation at that moment.
EVENT_WORDS = by_word(
    {
        "before_fit": "on_fit_start on_train_start on_train_begin",
        "after_fit": "on_fit_end on_train_end",
        "before_epoch": "on_epoch_begin on_epoch_start on_train_epoch_start",
        "after_epoch": "on_train_epoch_end on_epoch_end cleanup_epoch",
        "before_batch": "on_batch_begin on_batch_start on_train_batch_begin on_train_batch_start "
        "on_step_begin on_validation_batch_start",
        "after_batch": "on_batch_end on_train_batch_end on_step_end on_validation_batch_end cleanup_batch",
        "before_backward": "on_before_backward",
        "after_backward": "on_after_backward on_backward_end on_grad_computed",
        "before_step": "on_before_optimizer_step on_pre_optimizer_step",
        "after_step": "on_optimizer_step",
        "zero_grad": "on_before_zero_grad",
        "before_validate": "on_validation_start on_validation_epoch_start on_test_begin before_valid",
        "after_validate": "on_validation_end on_validation_epoch_end on_test_end on_evaluate after_valid",
        "cleanup_fit": "on_exception teardown",
        "after_pred": "after_predict",
        "compute_loss": "get_loss",
    }
)

#: What users of fastai, Lightning, Keras, torchmetrics and others would import from `callbacks`.
CALLBACK_WORDS = by_word(
    {
        "accuracy": "Accuracy",
        "AUROC": "AUC ROCAUC RocAuc RocAucBinary",
        "learn.fine_tune(...)": "BackboneFinetuning",
        "learn.find_batch_size()": "BatchSizeFinder",
        "BatchNormFreeze": "BnFreeze",
        "CancelBatch": "CancelBackwardException",
        "CancelValidate": "CancelValidException",
        "torch.nn.CrossEntropyLoss": "CrossEntropyLossFlat",
        "from learner import Data": "Data",
        "DeviceStats": "DeviceStatsMonitor MemoryMonitor SystemMetricsMonitor",
        "EMA": "EMAWeightAveraging ExponentialMovingAverage EMAHandler SwapEMAWeights",
        "F1": "F1Score",
        "GradientClip": "GradientClipping GradientNormClipping",
        "Hooks": "HookCallback",
        "learn.lr_find()": "LRFinder LearningRateFinder",
        "TorchScheduler": "LRScheduler",
        "LabelMix": "LabelSmoothing",
        "torch.nn.CrossEntropyLoss(label_smoothing=0.1), or LabelMix": "LabelSmoothingCrossEntropy",
        "on": "LambdaCallback",
        "from learner import Learner": "Learner",
        "LRMonitor": "LearningRateMonitor OptimizerParamsHandler",
        "TorchScheduler or ParamScheduler": "LearningRateScheduler",
        "torch.nn.MSELoss": "MSELossFlat",
        "MAE": "MeanAbsoluteError",
        "MSE": "MeanSquaredError",
        "Checkpoint": "ModelCheckpoint SaveModel SaveModelCallback BackupAndRestore CheckpointSaver "
        "DiskSaver OnExceptionCheckpoint TrainEndCheckpoint",
        "RNNReset": "ModelResetter",
        "learn.summary()": "ModelSummary RichModelSummary",
        "learn.fit_one_cycle(...)": "OneCycle OneCycleScheduler",
        "learn.fit_one_cycle(...), or TorchScheduler": "OneCycleLR",
        "PearsonCorr": "PearsonCorrCoef",
        "R2": "R2Score",
        "RNNRegularizer": "RNNCallback",
        "learn.history.plot()": "ShowGraphCallback",
        "SWA": "StochasticWeightAveraging",
        "TensorBoard": "TensorBoardLogger",
        "StopOnNaN, a default callback": "TerminateOnNaN TerminateOnNaNCallback NaNMonitor TerminateOnNan",
        "Throughput": "ThroughputMonitor SpeedMonitor",
        "Best": "TrackerCallback",
        "built into the loop": "TrainEvalCallback",
        "EMA or SWA": "WeightAveraging",
        "accuracy, or a function: 1 - accuracy(preds, targets)": "error_rate",
        "TopKAccuracy(k)": "top_k_accuracy",
        "ActivationStats": "ActivationMonitor",
        "Distributed": "DistributedTrainer ParallelTrainer",
        "EarlyStopping": "EarlyStopper ThresholdStopper",
        "GradientAccumulation": "GradientAccumulationScheduler",
        "GradientFlow": "GradsHistHandler GradsScalarHandler",
        "Metrics": "BatchScoring EpochScoring PassthroughScoring",
        "MixedPrecision": "ModelToHalf NonNativeMixedPrecision",
        "ParamScheduler": "ComposerScheduler ConcatScheduler CosineAnnealingScheduler PiecewiseLinear",
        "Profile": "Profiler PyTorchProfiler TorchProfiler",
        "Progress": "ConsoleLogger NotebookProgressCallback PrintLog PrinterCallback ProgbarLogger "
        "ProgressBar ProgressBarLogger RichProgressBar TQDMProgressBar",
        "ReduceLROnPlateau": "ReduceLROnPlateauScheduler",
        "Recorder": "InMemoryLogger",
        SCALARS: "ClearMLLogger CometCallback CometLogger CometMLLogger MLFlowLogger MLflowCallback "
        "MLflowLogger MlflowLogger NeptuneLogger RemoteMonitor WandbCallback WandbLogger",
        "StopAfter": "TimeLimit",
        "Timer": "EpochTimer RuntimeEstimator",
        "learn.get_preds()": "BasePredictionWriter EpochOutputStore FetchPredsCallback GatherPredsCallback",
    }
)

#: What they would import from `learner`.
PACKAGE_WORDS = by_word(
    {
        "Interpretation(learn)": "ClassificationInterpretation",
        "Data": "DataBlock DataLoaders LightningDataModule TabularDataLoaders",
        "Data, with ImageFolder of torchvision": "ImageDataLoaders",
        "a plain nn.Module, passed to Learner": "LightningModule",
        "from learner import LearnerClassifier": "NeuralNetClassifier",
        "from learner import LearnerRegressor": "NeuralNetRegressor",
        "from learner.recipes.recipe import load_recipe": "Recipe load_recipe",
        "Learner": "Trainer",
        "from learner.datasets import article": "article",
        "transforms of torchvision, in the data set": "aug_transforms",
        "from learner.groups import body_and_head": "body_and_head",
        "from learner.groups import by_children": "by_children",
        "from learner.datasets import diabetes": "diabetes",
        "from learner.datasets import digits": "digits",
        "from learner.recipes.writer import learner_to_recipe": "learner_to_recipe",
        "learn.load(path) into a new learner": "load_learner",
        "seed_everything": "set_seed",
        "torchvision, to load the data": "untar_data",
        "Learner, with a model of torchvision": "vision_learner",
    }
)

#: Attributes of a learner.
LEARNER_WORDS = by_word(
    {
        "add_callbacks": "add_callback add_cb add_cbs",
        "added": "added_cbs",
        "results, or history": "callback_metrics logged_metrics",
        "callbacks": "cbs",
        "the callback Compile()": "compile",
        "the callback DevicePlacement('cpu')": "cpu",
        "the callback DevicePlacement('cuda')": "cuda to",
        "epoch": "current_epoch",
        "data": "dataloaders dls",
        "data.train or data.valid": "dl",
        "validate() or model.eval()": "eval",
        "validate": "evaluate",
        "fit_one_cycle": "fit_onecycle",
        "batch_idx": "iter",
        "restore(snapshot) or load(path)": "load_state_dict",
        "results['name'] = value, in a callback": "log",
        "history.steps['train_loss']": "losses",
        "loss_func": "loss_fn",
        "optimizer.param_groups[0]['lr']": "lr",
        "lr_find": "lr_finder",
        "history.steps['lr']": "lrs",
        "load(path)": "load_weights load_params load_from_checkpoint",
        "n_epochs": "max_epochs n_epoch",
        "n_batches": "n_iter num_training_batches",
        "without(Progress), as `with learn.without(Progress):`": "no_bar",
        "optimizer": "opt opt_func optimizers",
        "model.parameters()": "parameters",
        "model": "pl_module",
        "history.plot()": "plot_loss plot_losses",
        "lr_find().plot()": "plot_lr_find",
        "preds": "pred",
        "history": "recorder",
        "remove_callbacks": "remove_callback remove_cb remove_cbs",
        "callbacks.checkpoint.folder, or run_folder": "model_dir path default_root_dir log_dir",
        "predict(inputs).softmax(1)": "predict_proba",
        "save(path), or the callback Checkpoint": "save_checkpoint",
        "export('model.pt'), or save(path)": "save_model save_weights save_params",
        "stop('why')": "should_stop",
        "explain": "show_training_loop",
        "snapshot() or save(path)": "state_dict",
        "get_preds(tta=function)": "tta",
        "the callback MixedPrecision('bf16')": "to_bf16",
        "the callback ChannelsLast()": "to_channelslast",
        "export('model.onnx')": "to_onnx",
        "export('model.pt2')": "to_torchscript",
        "the callback MixedPrecision('fp16')": "to_fp16",
        "fit(n_epochs)": "train",
        "data.train": "train_dataloader",
        "global_step": "train_iter",
        "the learner itself": "trainer",
        "data.valid": "val_dataloaders",
        "inputs": "xb",
        "targets": "yb",
    }
)

#: Attributes of `Data`.
DATA_WORDS = by_word(
    {
        "Data(train, valid)": "from_dblock from_loaders",
        "Data.from_tensors(inputs, targets), with the columns as arrays": "from_csv from_df",
        "Data.from_datasets(train, valid)": "from_dsets from_dataset",
        "Data.from_datasets, with ImageFolder of torchvision": "from_folder from_name_func from_path_func "
        "from_name_re from_lists",
        "train": "train_dl train_loader train_dataloader",
        "valid": "valid_dl val_dataloader valid_loader",
        "test": "test_dl test_dataloader",
        "train.dataset": "train_ds",
        "valid.dataset": "valid_ds",
        "next(iter(data.batches(data.train)))": "one_batch",
        "learn.show_batch()": "show_batch",
        "train.batch_size": "bs batch_size",
        "train.dataset.classes": "c vocab",
    }
)

#: Attributes of `Interpretation`.
INTERPRETATION_WORDS = by_word(
    {
        "Interpretation(learn)": "from_learner",
        "predicted": "decoded",
        "targets": "targs",
        "report()": "print_classification_report classification_report",
        "plot_top_losses()": "show_results",
        "classes": "vocab",
    }
)

#: Arguments, with those that may be meant; the first one that the function has is suggested.
ARGUMENT_WORDS: dict[str, tuple[str, ...]] = {
    word: tuple(ours.split())
    for word, ours in by_word(
        {
            "data": "dls dataloaders",
            "loss_func": "loss_fn criterion loss",
            "optimizer": "opt_func opt",
            "callbacks": "cbs",
            "n_epochs": "epochs n_epoch max_epochs num_epochs",
            "lr_max base_lr": "lr",
            "lr_max lr end": "max_lr",
            "lr base_lr": "lr_max",
            "lr_max lr base_lr": "learning_rate",
            "lr": "rate",
            "weight_decay": "wd decay",
            "momentum": "mom",
            "monitor best": "metric",
            "best": "monitor save_best save_best_only",
            "folder": "dirpath dirname log_dir root_dir logdir",
            "path": "fname filename filepath csv_path",
            "keep": "save_top_k max_to_keep n_saved save_total_limit",
            "every": "every_n_epochs every_n_train_steps every_epoch save_freq save_every",
            "trainable_only": "save_weights_only",
            "max_norm": "clip gradient_clip_val max_grad_norm clipnorm",
            "max_value": "clip_value clipvalue",
            "n_batches": "accumulate accumulation_steps gradient_accumulation_steps grad_accum n_acc",
            "restore_best": "restore_best_weights load_best",
            "min_delta": "delta",
            "decay": "beta ema_decay momentum",
            "precision": "dtype amp_dtype",
            "div_final": "final_div final_div_factor",
            "div": "div_factor",
            "start": "start_lr min_lr",
            "end": "end_lr",
            "n_steps": "num_it num_training",
            "n": "max_n",
            "min_count": "min_val",
            "average": "avg averaging",
            "k": "top_k topk n_folds n_splits",
            "higher_is_better": "greater_is_better",
            "loader": "dl dataloader",
            "batch_size": "bs batchsize",
            "valid": "validation valid_pct val validation_split valid_ds",
            "train": "train_ds",
        }
    ).items()
}

#: Keys of a recipe.
RECIPE_WORDS = by_word(
    {
        "recipe": "name title description",
        "seed": "random_seed",
        "data": "dataset dls",
        "model": "net network",
        "loss": "loss_func criterion",
        "optimizer": "optim opt",
        "decay_norms": "wd_bn_bias",
        "splitter": "param_groups",
        "callbacks": "cbs plugins",  # vocabulary: quoted
        "fit": "training train trainer",
    }
)
