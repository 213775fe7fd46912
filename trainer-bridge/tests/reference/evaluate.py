#!/usr/bin/env python3
"""Write the goldens of trainer-bridge's `evaluate` into tests/golden/: predictions of a made-up network and what
scikit-learn, scipy and numpy say of them. Needs the packages of requirements.txt beside this script; run it after a
change of what is measured, and look at what changed:

    python3 -m venv .cache/evaluate-venv
    .cache/evaluate-venv/bin/pip install -r trainer-bridge/tests/reference/requirements.txt
    .cache/evaluate-venv/bin/python trainer-bridge/tests/reference/evaluate.py
"""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
from scipy.ndimage import convolve
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.calibration import _SigmoidCalibration, calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

GOLDENS = Path(__file__).resolve().parent.parent / "golden"
N_GROUPS, N_CROPS, SEED = 24, 5, 7
RECALLS, FALSE_ALARMS = [0.5, 0.8, 0.9, 0.95], [0.01, 0.05, 0.1]
N_BINS = 15


def predictions():
    """Rows of predictions.csv: a real and two fakes a group, two faces in every fifth video, some groups only a photo."""
    rng = np.random.default_rng(SEED)
    rows = []
    for group in range(N_GROUPS):
        person = rng.normal(0, 0.7)
        is_photo = group >= 21
        kinds = [("", "REAL")] if is_photo else [("", "REAL"), ("swap", "FAKE"), ("reenact", "FAKE")]
        for method, label in kinds:
            extension = "jpg" if is_photo else "mp4"
            video = f"{'photos' if is_photo else 'clips'}/{group:02}{method}.{extension}"
            for condition in ["clean"] if is_photo else ["clean", "crf34"]:
                hardness = 1.0 if condition == "clean" else 0.5
                for track in range(2 if group % 5 == 0 and not is_photo else 1):
                    face_px = rng.uniform(45, 280)
                    # Some faces are too short for a verdict.
                    n_crops = 1 if is_photo else 3 if group % 11 == 3 else N_CROPS
                    for crop in range(n_crops):
                        strength = {"": -1.8, "swap": 2.0, "reenact": 1.0}[method] * hardness
                        # In eighths, which f32 holds exactly, so that there are ties.
                        margin = round(float(rng.normal(strength + person, 2.2)) * 8) / 8
                        real = round(float(rng.normal(0, 1)) * 8) / 8
                        rows.append(
                            {
                                "dataset": "made-up",
                                "crop": f"crops/{group:02}{method}-{condition}-{track}-{crop}.png",
                                "video": video,
                                "source": f"clips/{group:02}.mp4",
                                "group": f"g{group:02}",
                                "method": method,
                                "condition": condition,
                                "track": track,
                                "face_px": round(face_px + crop, 1),
                                "label": label,
                                "split": "validation",
                                "logit_real": real,
                                "logit_fake": real + margin,
                                "sharpness": round(float(rng.gamma(3, 60)), 2),
                                "brightness": round(float(rng.uniform(60, 190)), 2),
                                "png_bytes": int(rng.integers(40_000, 110_000)),
                            }
                        )
    return rows


def crossing(fpr, tpr):
    """Where the polyline (fpr, tpr) meets fpr = 1 - tpr."""
    for (x0, y0), (x1, y1) in itertools.pairwise(zip(fpr, tpr)):
        if x1 + y1 >= 1:
            share = (1 - x0 - y0) / (x1 + y1 - x0 - y0)
            return x0 + share * (x1 - x0)
    raise ValueError("no crossing")


def bins(y, p, strategy):
    if strategy == "uniform":
        share, mean = calibration_curve(y, p, n_bins=N_BINS, strategy="uniform")
        place = np.searchsorted(np.linspace(0, 1, N_BINS + 1)[1:-1], p)
        n = np.bincount(place, minlength=N_BINS)
        n = n[n > 0]
    else:
        parts = np.array_split(np.argsort(p, kind="stable"), N_BINS)
        n = np.array([len(part) for part in parts])
        mean = np.array([p[part].mean() for part in parts])
        share = np.array([y[part].mean() for part in parts])
    return {
        "bins": [{"n": int(c), "mean_score": m, "share_fake": s} for c, m, s in zip(n, mean, share)],
        "ece": float(np.sum(n / n.sum() * np.abs(mean - share))),
    }


def measure(y, p, rank, losses):
    said = (p >= 0.5).astype(int)
    fpr, tpr, _ = roc_curve(y, rank, drop_intermediate=False)
    classes = [0, 1]
    return {
        "n_real": int((y == 0).sum()),
        "n_fake": int((y == 1).sum()),
        "accuracy": accuracy_score(y, said),
        "log_loss": log_loss(y, np.clip(p, 1e-7, 1 - 1e-7)) if losses is None else float(losses.mean()),
        "auc": roc_auc_score(y, rank),
        "eer": crossing(fpr, tpr),
        "confusion": confusion_matrix(y, said).tolist(),
        "precision": [precision_score(y, said, pos_label=c) for c in classes],
        "recall": [recall_score(y, said, pos_label=c) for c in classes],
        "false_alarms_at_recall": [{"at": r, "value": fpr[tpr >= r].min()} for r in RECALLS],
        "recall_at_false_alarms": [{"at": f, "value": tpr[fpr <= f].max()} for f in FALSE_ALARMS],
        "calibration": bins(y, p, "uniform"),
        "calibration_equal_count": bins(y, p, "quantile"),
    }


def levels(rows, temperature=1.0, bias=0.0):
    """Labels, scores (f32, as candor's) and groups of crops, faces and videos."""
    margin = np.array([np.float32(r["logit_fake"]) - np.float32(r["logit_real"]) for r in rows], np.float32)
    z = margin / np.float32(temperature) + np.float32(bias)
    score = 1 / (1 + np.exp(-z.astype(np.float32)))
    faces, videos = {}, {}
    for row, s in zip(rows, score):
        face = faces.setdefault((row["video"], row["condition"], row["track"]), {"row": row, "scores": []})
        face["scores"].append(s)
    for (video, condition, _), face in faces.items():
        videos.setdefault((video, condition), []).append((np.mean(face["scores"]), face["row"]))
    label = lambda row: int(row["label"] == "FAKE")
    return {
        "image": (np.array([label(r) for r in rows]), score, [r["group"] for r in rows]),
        "face": (
            np.array([label(f["row"]) for f in faces.values()]),
            np.array([np.mean(f["scores"]) for f in faces.values()], np.float32),
            [f["row"]["group"] for f in faces.values()],
        ),
        "video": (
            np.array([label(v[0][1]) for v in videos.values()]),
            np.array([max(s for s, _ in v) for v in videos.values()], np.float32),
            [v[0][1]["group"] for v in videos.values()],
        ),
    }, [len(f["scores"]) >= 5 or f["row"]["video"].endswith(".jpg") for f in faces.values()]


def platt(margin, y):
    """The optimum by scipy, checked against scikit-learn's own."""
    n1, n0 = (y == 1).sum(), (y == 0).sum()
    goal = np.where(y == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    nll = lambda ab: np.sum(np.logaddexp(0, ab[0] * margin + ab[1]) - goal * (ab[0] * margin + ab[1]))
    slope = lambda ab: (lambda gap: np.array([np.sum(gap * margin), np.sum(gap)]))(expit(ab[0] * margin + ab[1]) - goal)
    found = minimize(nll, [0.0, 0.0], jac=slope, method="BFGS", options={"gtol": 1e-9})
    sigmoid = _SigmoidCalibration().fit(margin, y)
    assert np.allclose(found.x, [-sigmoid.a_, -sigmoid.b_], rtol=1e-3, atol=1e-4), (found.x, sigmoid.a_, sigmoid.b_)
    return {"temperature": 1 / found.x[0], "bias": found.x[1], "nll": float(nll(found.x))}


def thresholds(faces, decided, share):
    """k-th smallest of groups' highest reals, k = ceil((n + 1)(1 - share)); k-th largest of their lowest fakes."""
    y, score, group = faces
    of = lambda c: [score[(y == c) & decided & (np.array(group) == name)] for name in sorted(set(group))]
    reals = np.sort([scores.max() for scores in of(0) if len(scores)])
    fakes = np.sort([scores.min() for scores in of(1) if len(scores)])
    k = lambda n: (int(np.ceil(np.round((n + 1) * (1 - share), 9))))
    return {"fake_above": float(reals[k(len(reals)) - 1]), "real_below": float(fakes[::-1][k(len(fakes)) - 1])}


def interval(level):
    """A cluster bootstrap of numpy's own draws: close to, not the same as, the program's."""
    y, score, group = level
    names, of = np.unique(group, return_inverse=True)
    rng = np.random.default_rng(SEED)
    aucs = []
    for _ in range(2000):
        weights = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[of]
        aucs.append(roc_auc_score(y, score, sample_weight=weights))
    return np.quantile(aucs, [0.025, 0.975]).tolist()


def linear():
    """Two overlapping clouds, not standardised; liblinear counts the bias as a feature and so shrinks it, too."""
    rng = np.random.default_rng(SEED)
    y = np.repeat([0, 1], [70, 50])
    x = (rng.normal(0, 1, (120, 5)) + 0.8 * y[:, None] * np.array([1, 0.5, 0, -0.5, 0])).astype(np.float32).round(3)
    svm = LinearSVC(C=0.1, loss="squared_hinge", dual=False, tol=1e-12, max_iter=100_000).fit(x, y)
    logistic = LogisticRegression(C=0.1, solver="liblinear", tol=1e-12, max_iter=100_000).fit(x, y)
    of = lambda model: model.coef_[0].tolist() + model.intercept_.tolist()
    return {"x": x.tolist(), "y": y.tolist(), "c": 0.1, "svm": of(svm), "logistic": of(logistic)}


def sharpness():
    """A crop of a written pattern: pixel (x, y) is (x * x + 3 y, 5 x y, x + y * y) mod 256."""
    y, x = np.mgrid[0:9, 0:12]
    rgb = np.stack([(x * x + 3 * y), (5 * x * y), (x + y * y)], -1) % 256
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    edges = convolve(luma, np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], float))[1:-1, 1:-1]
    return {"sharpness": float(edges.var()), "brightness": float(luma.mean())}


def cross_fitted():
    """Decisions on groups by what logistic regression learns of the others, facts being standardised; and the AUC over
    pairs of a real and a fake of one fold."""
    rng = np.random.default_rng(SEED + 1)
    group = np.repeat(np.arange(24), 5)
    y = (rng.random(120) < 0.45).astype(int)
    x = (rng.normal(0, 1, (120, 3)) * [1, 20, 0.1] + [5, -40, 0]).astype(np.float32).round(3)
    x[:, 1] += (12 * y + rng.normal(0, 5, 24)[group]).astype(np.float32).round(3)
    x = x.round(3)
    fold = group % 5
    decisions = np.zeros(120)
    area = n_pairs = 0
    for k in range(5):
        others, own = fold != k, fold == k
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1, solver="liblinear", tol=1e-12, max_iter=100_000))
        decisions[own] = model.fit(x[others].astype(float), y[others]).decision_function(x[own].astype(float))
        pairs = y[own].sum() * (1 - y[own]).sum()
        area += roc_auc_score(y[own], decisions[own]) * pairs
        n_pairs += pairs
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "fold": fold.tolist(),
        "decisions": decisions.tolist(),
        "auc": float(area / n_pairs),
    }


def main():
    GOLDENS.mkdir(exist_ok=True)
    rows = predictions()
    with (GOLDENS / "predictions.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    margin = np.array([float(np.float32(r["logit_fake"])) - float(np.float32(r["logit_real"])) for r in rows])
    by_level, _ = levels(rows)
    expected = {"levels": {}}
    for name, (y, score, group) in by_level.items():
        losses = np.logaddexp(0, np.where(y == 1, -margin, margin)) if name == "image" else None
        expected["levels"][name] = measure(y, score.astype(np.float64), margin if name == "image" else score, losses)
        expected["levels"][name]["auc_interval"] = interval((y, score, group))
        if losses is not None:
            edges = np.append(np.arange(0, 15, 0.5), np.inf)
            expected["losses"] = {
                "counts": np.histogram(losses, edges)[0].tolist(),
                "share_under_1": float((losses < 1).mean()),
                "largest": float(losses.max()),
            }
    y = by_level["image"][0]
    weights = np.arange(len(rows)) * 7 % 4
    expected["weighted_auc"] = roc_auc_score(y, margin, sample_weight=weights)
    expected["platt"] = platt(margin, y)
    calibrated, decided = levels(rows, expected["platt"]["temperature"], expected["platt"]["bias"])
    expected["thresholds"] = {str(s): thresholds(calibrated["face"], decided, s) for s in (0.05, 0.1)}
    expected["linear"] = linear()
    expected["facts"] = sharpness()
    expected["cross_fitted"] = cross_fitted()
    (GOLDENS / "evaluate.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
