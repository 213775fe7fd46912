"""Writes the goldens of the learning-rate schedule and the optimizer, from their published definitions, in numpy:
`.cache/venv/bin/python trainer-bridge/tests/reference/training.py`."""

import pathlib

import numpy as np

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"


def sched_cos(start, end, pos):
    """fast.ai's SchedCos: docs.fast.ai/callback.schedule.html."""
    return start + (1 + np.cos(np.pi * (1 - pos))) * (end - start) / 2


def combined_cos(pct, start, middle, end, pos):
    """fast.ai's combined_cos: one half cosine up to `pct`, another one from there."""
    if pos >= pct:
        return sched_cos(middle, end, (pos - pct) / (1 - pct))
    return sched_cos(start, middle, pos / pct)


def one_cycle():
    """fast.ai's fit_one_cycle with its defaults (div=25, div_final=1e5, moms=(0.95, 0.85, 0.95)), the peak at 20 %."""
    lines = ["step,n_steps,head_lr,base_lr,momentum"]
    for n_steps in (7, 100):
        for step in range(n_steps):
            pos = step / n_steps
            lrs = [combined_cos(0.2, lr / 25, lr, lr / 1e5, pos) for lr in (1e-3, 1e-4)]
            momentum = combined_cos(0.2, 0.95, 0.85, 0.95, pos)
            lines.append(f"{step},{n_steps},{lrs[0]!r},{lrs[1]!r},{momentum!r}".replace("np.float64(", "").replace(")", ""))
    (GOLDENS / "one_cycle.csv").write_text("\n".join(lines) + "\n")


def adamw():
    """25 steps on sum(c w^3) / 3, with a learning rate for each of two groups and a momentum that moves."""
    w = np.array([0.5, -1.0, 2.0, -0.25, 1.0, -3.0])
    c = np.arange(1.0, 7.0)
    decays = np.array([1, 1, 1, 1, 0, 0])
    m, v = np.zeros(6), np.zeros(6)
    beta2, eps, wd = 0.99, 1e-5, 0.01
    lines = ["lr0,lr1,beta1," + ",".join(f"w{k}" for k in range(6))]
    for t in range(1, 26):
        lr0, lr1, beta1 = 0.01 * (1 + t % 3), 0.002 * t, 0.95 - 0.004 * t
        lr = np.array([lr0] * 4 + [lr1] * 2)
        g = c * w * w
        w = w - lr * wd * decays * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w = w - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        lines.append(",".join(repr(float(x)) for x in [lr0, lr1, beta1, *w]))
    (GOLDENS / "adamw.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    GOLDENS.mkdir(exist_ok=True)
    one_cycle()
    adamw()
