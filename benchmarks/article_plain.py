"""The article's fit and figure as a plain script, to compare with `learner run examples/article.yaml`.

Run: python benchmarks/article_plain.py

It takes the same steps with the same optimizer, prints the same ten lines and writes the same figure, bit
for bit.
"""

import math

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

torch.manual_seed(2021)
time = torch.arange(20).float()
speed = torch.rand(20) * 5 + 0.8 * (time - 7.5) ** 2 + 1
torch.randn(3)  # the article prints one draw and discards it
params = torch.nn.Parameter(torch.randn(3))
optimizer = torch.optim.SGD([params], lr=1e-5)
figure = Figure(layout="constrained", figsize=(12, 3), facecolor="none")
axes = figure.subplots(1, 6, sharey=True)
for ax in axes:
    ax.set(facecolor="none", axisbelow=True)
    ax.grid(color="#767676", alpha=0.25, linewidth=0.6)
    ax.tick_params(which="both", colors="#767676", labelsize="small")
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label, ax.xaxis.offsetText, ax.yaxis.offsetText):
        text.set_color("#767676")
    for side, spine in ax.spines.items():
        spine.set(visible=side in ("left", "bottom"), color="#767676")

for step in range(10):
    a, b, c = params
    preds = a * time**2 + b * time + c
    loss = F.mse_loss(preds, speed)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    rmse = math.sqrt(loss.item())
    print("RMSE:", rmse)
    if step < 6:
        ax = axes[step]
        ax.scatter(time, speed, s=18, facecolors="none", edgecolors="#0072B2", label="targets")
        ax.scatter(time, preds.detach(), s=14, color="red", label="predictions")
        if step == 0:
            ax.legend(labelcolor="#767676", fontsize="small", framealpha=0, handlelength=1, borderpad=0)
        ax.set_title(f"step {step + 1}\nRMSE {rmse:.4g}", fontsize="medium")
        ax.set_ylim(-100, 100)

figure.savefig("article.png", dpi=150)
