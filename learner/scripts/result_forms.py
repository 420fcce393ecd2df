"""The lines of a script for callbacks that measure, report and stop."""

from __future__ import annotations

from typing import Any

from callbacks.core.definition import snake_case
from callbacks.guard.stop_on_nan import StopOnNaN
from callbacks.guard.stopping import EarlyStopping
from callbacks.measures.as_metrics import Metric, direction_of, metric_name
from callbacks.record.loggers import CSVLogger
from callbacks.record.metrics import Metrics
from callbacks.record.progress import LogRMSE, Progress
from callbacks.results import reductions
from callbacks.save.checkpoint import Checkpoint
from learner.scripts import result_texts as texts
from learner.scripts.expressions import literal
from learner.scripts.script import Script
from learner.scripts.source_text import block


def metrics(callback: Metrics, script: Script) -> None:
    """`Metrics`: the losses and the metrics of both passes, in `results`."""
    if callback.weight is not None:
        script.problem("Metrics(weight=...) cannot be converted")
    script.helpers["Mean"] = texts.SUM if adds_up(script) else texts.MEAN
    weight = loss_weight(script)
    has_valid = bool(script.loaders.valid)
    script.epoch_start.append(
        "train_loss, valid_loss = Mean(), Mean()" if has_valid else "train_loss = Mean()"
    )
    script.after_batch.append(f"train_loss.update(loss, {weight})")
    script.after_train.append('results = {"train_loss": train_loss.compute()}')
    script.measured |= {"train_loss", "lr"}
    if has_valid:
        script.valid_batch.append(f"valid_loss.update(loss, {weight})")
        script.after_valid.append('results["valid_loss"] = valid_loss.compute()')
        script.measured.add("valid_loss")
    passes = {"valid": ["valid"] * has_valid, "train": ["train"], "both": ["train"] + ["valid"] * has_valid}
    for each in passes[callback.on]:
        measure(callback.metrics, script, each)
    script.after_train.append('results["lr"] = optimizer.param_groups[0]["lr"]')


def measure(given: tuple[Any, ...], script: Script, part: str) -> None:
    """The metrics of one pass."""
    made = {snake_case(metric_name(each)): metric_form(each, script) for each in given}
    if not made:
        return
    script.measured |= {f"{part}_{name}" for name in made}
    for name, metric in zip(made, given, strict=True):
        script.directions[f"{part}_{name}"] = direction_of(metric)
    items = ", ".join(f'"{name}": {form}' for name, form in made.items())
    script.epoch_start.append(f"{part}_metrics = {{{items}}}")
    resets = [f'{part}_metrics["{name}"].reset()' for name, form in made.items() if not is_ours(form)]
    script.epoch_start.extend(resets)
    preds = "preds" if script.learn.loss_func is not None else 'getattr(preds, "logits", preds)'
    preds += ".detach()" if part == "train" else ""  # a metric must not keep the graph of the batch
    targets = script.batch.targets.removeprefix("*")
    targets = f"({targets})" if "," in targets else targets
    batch = [f"for metric in {part}_metrics.values():", f"    metric.update({preds}, {targets})"]
    (script.after_batch if part == "train" else script.valid_batch).extend(batch)
    (script.after_train if part == "train" else script.after_valid).extend(computed(part, made))


def computed(part: str, made: dict[str, str]) -> list[str]:
    """The lines that write the metrics of a pass to `results`."""
    loop = f"for name, metric in {part}_metrics.items():"
    if all(map(is_ours, made.values())):
        return [loop, f'    results[f"{part}_{{name}}"] = float(metric.compute())']
    return [  # an object of the user may compute several numbers by name
        loop,
        "    value = metric.compute()",
        "    for key, each in (value if isinstance(value, dict) else {name: value}).items():",
        f'        results[f"{part}_{{key}}"] = float(each)',
    ]


def is_ours(form: str) -> bool:
    """Is the metric a class that the script contains, which needs no `reset` and computes one number?"""
    return form.partition("(")[0] in (*texts.METRICS, "MeanOf")


def metric_form(metric: Any, script: Script) -> str:
    """An expression for a metric with `update` and `compute`."""
    kind = metric if isinstance(metric, type) else type(metric)
    kind = getattr(metric, "metric", kind)
    title = kind.__name__
    if kind.__module__.startswith("callbacks.") and title in texts.METRICS:
        script.helpers[title] = texts.METRICS[title]
        if title == "Accuracy":
            script.helpers[title] = texts.accuracy(script.learn.loss_func, script.batch.values.get("targets"))
        return f"{title}()"
    if kind.__module__.startswith("callbacks."):
        known = ", ".join(["accuracy", *sorted(set(texts.METRICS) - {"Accuracy"})])
        script.problem(f"the metric {title} cannot be converted; these can: {known}")
        return "..."
    if isinstance(metric, type):
        return f"{script.expressions.name(metric, f'the metric {title}')}()"
    if isinstance(metric, Metric):
        return script.expressions.value(metric, f"the metric {title}")
    script.helpers["MeanOf"] = texts.MEAN_OF
    return f"MeanOf({script.expressions.value(metric, f'the metric {metric_name(metric)}')})"


def adds_up(script: Script) -> bool:
    """Is the loss a sum over the batch?"""
    return reductions.reduction_of(script.learn.loss_func).adds_up


def loss_weight(script: Script) -> str:
    """The weight of a batch in the mean loss: the number that its loss divides by."""
    loss_func = script.learn.loss_func
    base, get = reductions.unwrapped(loss_func)
    name = reductions.name_of(base) if loss_func is not None else None
    if name is None or reductions.declared(get) != "mean":
        return script.batch.n_items
    if reductions.WEIGHERS[name] in (reductions.n_elements, reductions.n_weighted):
        return "preds.numel()"
    if name in ("cross_entropy", "nll_loss"):
        return class_weight(script, get)
    return script.batch.n_items


def class_weight(script: Script, get: reductions.Get) -> str:
    """The weight of a batch in a mean of `cross_entropy` or `nll_loss`."""
    targets = script.batch.values.get("targets")
    if targets is None or targets.is_floating_point():
        return script.batch.n_items
    ignored, name = get("ignore_index", -100), script.batch.targets
    if get("weight", None) is not None:
        if not hasattr(script.learn.loss_func, "weight"):
            script.problem("loss: use nn.CrossEntropyLoss(weight=...), not a partial")
        return f"loss_func.weight[{name}].sum()"
    if targets.ndim == 1 and not bool((targets == ignored).any()):
        return script.batch.n_items
    return f"({name} != {ignored}).sum()"


def progress(callback: Progress, script: Script) -> None:
    """`Progress`: a line for each epoch."""
    if "train_loss" not in script.measured:
        script.after_epoch.append('print(f"epoch {epoch}")')
        return
    shown = 'print(f"epoch {epoch}:", *(f"{name} {value:.5g}" for name, value in results.items()))'
    script.after_epoch.append(shown)


def csv_logger(callback: CSVLogger, script: Script) -> None:
    """`CSVLogger`: a row for each epoch."""
    needs_results(script, "CSVLogger")
    path = f"Path({literal(callback.path)})"
    if callback.path.parent.name:
        script.setup.append(f"{path}.parent.mkdir(parents=True, exist_ok=True)")
    script.epoch_start.insert(0, "start = time.perf_counter()")
    mode = '"a"' if callback.append else '"a" if epoch else "w"'
    header = f"if epoch == 0{' and file.tell() == 0' if callback.append else ''}:"
    script.after_epoch += [
        'row = {"epoch": epoch, **results, "seconds": time.perf_counter() - start}',
        f'with {path}.open({mode}, newline="") as file:',
        "    writer = csv.DictWriter(file, row)",
        f"    {header}",
        "        writer.writeheader()",
        "    writer.writerow(row)",
    ]


def log_rmse(callback: LogRMSE, script: Script) -> None:
    """`LogRMSE`: the root of the loss."""
    number, unit = int(callback.every.number), callback.every.unit
    if unit == "epoch":
        needs_results(script, "LogRMSE")
        lines = ["print(f\"RMSE: {math.sqrt(results['train_loss'])}\")"]
        script.after_epoch += every(number, "(epoch + 1)", lines)
    elif unit == "step":
        lines = ['print(f"RMSE: {math.sqrt(loss.item())}")']
        if number > 1:
            script.needs.add("global_step")
        target = script.after_update if script.update_if else script.after_batch
        target += every(number, "global_step", lines)
    else:
        script.problem(f'LogRMSE(every="{callback.every}"): a script counts by steps or by epochs')


def every(number: int, count: str, lines: list[str]) -> list[str]:
    """The lines, each time that a count is a multiple of a number."""
    if number <= 1:
        return lines
    return [f"if {count} % {number} == 0:", *(f"    {line}" for line in lines)]


def stop_on_nan(callback: StopOnNaN, script: Script) -> None:
    """`StopOnNaN`: an error before the update."""
    if callback.skip:
        script.problem(f"StopOnNaN(skip={callback.skip}): a script cannot skip batches; omit skip")
    script.needs.add("batch_idx")
    script.after_loss += block("""
        if not loss.isfinite():
            raise FloatingPointError(f"loss {loss.item()} in batch {batch_idx}, epoch {epoch}")
    """)


def needs_results(script: Script, title: str, monitor: str | None = None) -> None:
    """Note a problem if the script does not measure what a callback reads."""
    if "train_loss" not in script.measured:
        script.problem(f"{title}: it reads results, so the learner needs the callback Metrics")
    elif monitor is not None and monitor not in script.measured:
        names = ", ".join(sorted(script.measured))
        script.problem(f"{title}: a script does not measure {monitor!r}; it measures {names}")


def early_stopping(callback: EarlyStopping, script: Script) -> None:
    """`EarlyStopping`: leave the loop, and restore the best weights."""
    monitor = callback.monitor
    needs_results(script, "EarlyStopping", monitor)
    name, wait = script.own("best"), script.own("wait")
    state = measured_state(script, monitor) if callback.restore_best else ""
    good, bad = callback.stopping_threshold, callback.divergence_threshold
    value, sign, worst = compared(callback, script)
    better = gain(value, name, sign, callback._best.min_delta)
    better += f" or {value} {sign}= {literal(good)}" if good is not None else ""
    script.setup.append(f"{name}, {wait} = {worst}, 0")
    script.after_epoch += [f"if {better}:", f"    {name}, {wait} = {value}, 0"]
    if state:
        script.setup.append(f"{name}_state = None")
        script.after_epoch.append(f"    {name}_state = {state}")
        script.after_fit += [f"if {name}_state is not None:", f"    model.load_state_dict({name}_state)"]
    script.after_epoch += ["else:", f"    {wait} += 1"]
    reasons = [f"{wait} >= {callback.patience}"]
    reasons += [f"{value} {sign}= {literal(good)}"] if good is not None else []
    reasons += [f"not {value} {sign} {literal(bad)}"] if bad is not None else []
    script.end_epoch += [f"if {' or '.join(reasons)}:", "    break"]


def gain(value: str, best: str, sign: str, min_delta: float) -> str:
    """The condition that a value is better than the best one."""
    if not min_delta:
        return f"{value} {sign} {best}"
    difference = f"{best} - {value}" if sign == "<" else f"{value} - {best}"
    return f"{difference} > {literal(min_delta)}"


def compared(callback: Any, script: Script) -> tuple[str, str, str]:
    """The value that a callback monitors, the sign between a better one and another, and the worst value."""
    is_low = (callback._best.mode or script.directions.get(callback.monitor) or "min") == "min"
    value = f'results["{callback.monitor}"]'
    return (value, "<", 'float("inf")') if is_low else (value, ">", 'float("-inf")')


def measured_state(script: Script, monitor: str) -> str:
    """The weights that were measured: of an epoch with one update, those before it."""
    if monitor.startswith("valid_") or script.updates_per_epoch == 2:
        return "copy.deepcopy(model.state_dict())"
    if script.updates_per_epoch is None:
        script.problem(f"the monitor {monitor!r}: the training data has no length; monitor a valid_ result")
    line = "measured_state = copy.deepcopy(model.state_dict())  # train_loss is theirs"
    if line not in script.epoch_start:
        script.epoch_start.append(line)
    return "measured_state"


def checkpoint(callback: Checkpoint, script: Script) -> None:
    """`Checkpoint`: the weights of the best epoch, and the last ones with the optimizer's state."""
    folder = callback.folder.as_posix()
    script.setup.append(f"Path({literal(folder)}).mkdir(parents=True, exist_ok=True)")
    if callback.monitor is not None:
        needs_results(script, "Checkpoint", callback.monitor)
        name, (value, sign, worst) = script.own("best_saved"), compared(callback, script)
        state = measured_state(script, callback.monitor)
        state = "model.state_dict()" if state.startswith("copy.") else state
        script.setup.append(f"{name} = {worst}")
        script.after_epoch += [
            f"if {value} {sign} {name}:",
            f"    {name} = {value}",
            f"    torch.save({state}, {literal(f'{folder}/best.pt')})",
        ]
    if callback.every.unit == "epoch":
        saved = '{"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}'
        number = int(callback.every.number)
        line = f"torch.save({saved}, {literal(f'{folder}/last.pt')})"
        script.after_epoch += every(number, "(epoch + 1)", [line])


FORMS: dict[Any, Any] = {
    Metrics: metrics,
    Progress: progress,
    CSVLogger: csv_logger,
    LogRMSE: log_rmse,
    StopOnNaN: stop_on_nan,
    EarlyStopping: early_stopping,
    Checkpoint: checkpoint,
}
