"""A training script written by hand in plain PyTorch, of the kind that grows in every project.

`shapes_learner.py` is the same training with a Learner; docs/move_your_loop.md compares them part by part.
Both need tensorboard.

Prints the losses, accuracy and learning rate of each epoch. Starts again where it was interrupted.
"""

import math
from functools import partial
from pathlib import Path

import torch
from shapes import ShapeNet, make_loaders
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter


def warmup_cosine(step, n_steps, n_warmup=20):
    """Share of the learning rate at a step: linear up, then half a cosine down to 0."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup)))


def main(folder="runs/shapes_loop", n_epochs=12, patience=4):
    """Train; return the model with the best weights, and a row of numbers for each epoch."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_loader, valid_loader = make_loaders()
    model = ShapeNet().to(device)

    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim == 1]  # biases and norms
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-3)
    share = partial(warmup_cosine, n_steps=n_epochs * len(train_loader))
    scheduler = LambdaLR(optimizer, share)

    writer = SummaryWriter(folder)
    history, best, wait = [], math.inf, 0
    best_path, last_path = Path(folder, "best.pt"), Path(folder, "last.pt")
    if last_path.exists():
        last = torch.load(last_path)
        model.load_state_dict(last["model"])
        optimizer.load_state_dict(last["optimizer"])
        scheduler.load_state_dict(last["scheduler"])
        torch.set_rng_state(last["random"])
        history, best, wait = last["history"], last["best"], last["wait"]

    for epoch in range(len(history), n_epochs):
        if wait == patience:
            break
        model.train()
        total = 0.0
        for images, labels in train_loader:
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device, torch.bfloat16):
                loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(labels)
        row = {"train_loss": total / len(train_loader.dataset), "lr": optimizer.param_groups[0]["lr"]}

        model.eval()
        total, n_correct = 0.0, 0
        for images, labels in valid_loader:
            images, labels = images.to(device), labels.to(device)
            with torch.no_grad(), torch.autocast(device, torch.bfloat16):
                scores = model(images)
                loss = F.cross_entropy(scores, labels, label_smoothing=0.1)
            total += loss.item() * len(labels)
            n_correct += (scores.argmax(1) == labels).sum().item()
        row["valid_loss"] = total / len(valid_loader.dataset)
        row["valid_accuracy"] = n_correct / len(valid_loader.dataset)

        print(f"epoch {epoch}", *(f"{name} {value:.4f}" for name, value in row.items()))
        for name, value in row.items():
            writer.add_scalar(name, value, (epoch + 1) * len(train_loader))
        history.append(row)

        wait = 0 if row["valid_loss"] < best else wait + 1
        if wait == 0:
            best = row["valid_loss"]
            torch.save(model.state_dict(), best_path)

        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"scheduler": scheduler.state_dict(), "random": torch.get_rng_state()}
        state |= {"history": history, "best": best, "wait": wait}
        torch.save(state, last_path)

    writer.close()
    model.load_state_dict(torch.load(best_path))
    return model, history


if __name__ == "__main__":
    main()
