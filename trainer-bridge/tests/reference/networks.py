"""Write what torchvision's and timm's own modules make of known weights, for the Rust tests to compare with.

    python3 trainer-bridge/tests/reference/networks.py

Needs torch, torchvision and timm, any version: made with Debian's python3-torch 1.13.1 and python3-torchvision 0.14.1
and timm 0.9.16. Writes trainer-bridge/tests/golden/networks.json, a list of

    {"origin", "name", "backbone", "padding", "epsilon", "momentum": how the module pads and normalises,
     "n_parameters", "n_tensors": of the backbone, without counters of batches,
     "features": the first pooled features of both pictures in inference,
     "trained_features", "stem_mean", "last_var", "stem_gradient": in training mode without dropout, the first features,
         running statistics after one batch, and the gradient of the mean of the squared features by the first weights}

Every tensor's numbers follow from its name (`numbers`), so a weight that is taken for another one is seen.
"""

import json
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "networks.json"
# 90, 45, 23, 12, 6, 3 px: TensorFlow's padding is lopsided where the side is even.
SIZE_PX, N_PICTURES = 90, 2
N_FEATURES, N_NUMBERS = 8, 6
CLASSIFIERS = ("classifier.", "fc.")


def uniform(name, n_numbers):
    """Return `n_numbers` in 0..1: SplitMix64 started at the FNV-1a hash of `name`."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        state = np.uint64(seed) + np.arange(1, n_numbers + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        state = state ^ state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53


def numbers(name, shape):
    """Return the f32 tensor called `name`: weights of variance 1.5 / fan in, gains and variances near 1, the rest near 0."""
    u = uniform(name, int(np.prod(shape)))
    if len(shape) > 1:
        values = (2 * u - 1) * np.sqrt(4.5 / np.prod(shape[1:]))
    elif name.endswith((".weight", ".running_var")):
        values = 0.75 + 0.5 * u
    else:
        values = 0.2 * (u - 0.5)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def members():
    """Yield (origin, name, backbone, module without stochastic depth)."""
    for name in ("resnet18", "resnet34"):
        yield "torchvision", name, name, getattr(torchvision.models, name)()
    for k in range(6):
        name = f"efficientnet_b{k}"
        yield "torchvision", name, f"b{k}", getattr(torchvision.models, name)(stochastic_depth_prob=0.0)
    for family, n_members in (("b", 6), ("lite", 5)):
        for k in range(n_members):
            for prefix in ("", "tf_"):
                name = f"{prefix}efficientnet_{family}{k}"
                yield "timm", name, f"{family}{k}", timm.create_model(name, drop_path_rate=0.0)


def features(origin, module, pictures):
    """Return the pooled features [N,F]."""
    if origin == "timm":
        return module.forward_features(pictures).mean((2, 3))
    if hasattr(module, "features"):
        return module.features(pictures).mean((2, 3))
    flow = module.maxpool(module.relu(module.bn1(module.conv1(pictures))))
    for group in (module.layer1, module.layer2, module.layer3, module.layer4):
        flow = group(flow)
    return flow.mean((2, 3))


def rounded(tensor):
    return [float(f"{value:.9g}") for value in tensor.detach().double().flatten().tolist()]


def golden(origin, name, backbone, module):
    state = {key: numbers(key, tensor.shape) for key, tensor in module.state_dict().items() if tensor.ndim}
    module.load_state_dict(state, strict=False)
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    own = {key: tensor for key, tensor in state.items() if not key.startswith(CLASSIFIERS)}
    pixels = 4 * uniform("input", N_PICTURES * 3 * SIZE_PX * SIZE_PX) - 2
    pictures = torch.from_numpy(pixels.astype(np.float32)).reshape(-1, 3, SIZE_PX, SIZE_PX)
    module.double().eval()
    inferred = features(origin, module, pictures.double())
    module.train()
    trained = features(origin, module, pictures.double())
    trained.square().mean().backward()
    stem = next(module.parameters())
    return {
        "origin": origin,
        "name": name,
        "backbone": backbone,
        "padding": "same" if name.startswith("tf_") else "symmetric",
        "epsilon": norms[0].eps,
        "momentum": norms[0].momentum,
        "n_parameters": sum(tensor.numel() for key, tensor in own.items() if "running_" not in key),
        "n_tensors": len(own),
        "features": rounded(inferred[:, :N_FEATURES]),
        "trained_features": rounded(trained[:, :N_FEATURES]),
        "stem_mean": rounded(norms[0].running_mean[:N_NUMBERS]),
        "last_var": rounded(norms[-1].running_var[:N_NUMBERS]),
        "stem_gradient": rounded(stem.grad.flatten()[:N_NUMBERS]),
    }


def main():
    entries = []
    for member in members():
        entries.append(golden(*member))
        print(member[0], member[1], entries[-1]["features"][:3], flush=True)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
