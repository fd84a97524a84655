"""Makes certify_lirpa.npz: bounds of auto_LiRPA 0.3 for four small networks.

    pip install torch auto-lirpa==0.3
    python tests/golden/make_certify.py

Keys are `NETWORK/weight/NAME`, `NETWORK/x`, `NETWORK/y`, `NETWORK/METHOD/lower`,
`.../upper` (of the logits) and `.../margins` (of z_y - z_j, K - 1 forms, j ascending).
"""

import importlib
import pathlib
import sys
import types

import numpy as np
import torch
from torch import nn
from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

# What auto_LiRPA 0.3 (2022) asks of NumPy and torch has moved since.
sys.modules["numpy.lib.arraysetops"] = types.SimpleNamespace(isin=np.isin)
importlib.import_module("torch.onnx.symbolic_helper")
sys.modules["torch.onnx.symbolic_helper"]._set_opset_version = lambda version: setattr(
    GLOBALS, "export_onnx_opset_version", version
)
torch._C.Node.__getitem__ = lambda node, name: getattr(node, node.kindOf(name))(name)
from auto_LiRPA import (  # noqa: E402
    BoundedModule,
    BoundedTensor,
    PerturbationLpNorm,
)

_members = BoundedModule._named_members
BoundedModule._named_members = lambda self, get, prefix="", recurse=True, **_: _members(
    self, get, prefix, recurse
)

EPS = {"mlp": 0.1, "cnn": 0.03, "residual": 0.02, "curved": 0.1}


class Residual(nn.Module):
    """Two blocks with a shortcut, the second with strides."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.one, self.two = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.three = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.four, self.short = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(4, 6, 1, 2)
        self.head = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x):
        """Classifies `[B, 1, 8, 8]`."""
        x = torch.relu(self.stem(x))
        x = torch.relu(self.two(torch.relu(self.one(x))) + x)
        x = torch.relu(self.four(torch.relu(self.three(x))) + self.short(x))
        return self.head(x.flatten(1))


def networks():
    """Returns them by name."""
    return {
        "mlp": nn.Sequential(
            nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(),
            nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 5),
        ),
        "cnn": nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=1, padding=1), nn.ReLU(),
            nn.Conv2d(4, 8, 4, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(8 * 4 * 4, 20), nn.ReLU(), nn.Linear(20, 5),
        ),
        "residual": Residual(),
        "curved": nn.Sequential(
            nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 24), nn.Sigmoid(),
            nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 5),
        ),
    }  # fmt: skip


def main():
    """Writes the file beside this one."""
    torch.manual_seed(0)
    out = {}
    for name, net in networks().items():
        shape = (3, 20) if name in ("mlp", "curved") else (3, 1, 8, 8)
        x, y = torch.rand(shape), torch.tensor([0, 3, 4])
        for key, value in net.state_dict().items():
            if name in ("mlp", "curved") and value.ndim == 2:
                value.mul_(1.5)  # so that some units are unstable
            out[f"{name}/weight/{key}"] = value.numpy().copy()
        out[f"{name}/x"], out[f"{name}/y"] = x.numpy(), y.numpy()
        out[f"{name}/eps"] = np.float32(EPS[name])
        options = {"sparse_intermediate_bounds": False, "conv_mode": "matrix"}
        bounded = BoundedModule(net, torch.zeros_like(x), bound_opts=options)
        ball = PerturbationLpNorm(norm=float("inf"), eps=EPS[name])
        given = BoundedTensor(x, ball)
        others = torch.tensor([[j for j in range(5) if j != i] for i in y.tolist()])
        forms = torch.eye(5)[y][:, None] - torch.eye(5)[others]
        for method in ("IBP", "CROWN-IBP", "CROWN"):
            low, high = bounded.compute_bounds(x=(given,), method=method)
            key = f"{name}/{method.lower().replace('-', '_')}"
            out[f"{key}/lower"] = low.detach().numpy()
            out[f"{key}/upper"] = high.detach().numpy()
            low, _ = bounded.compute_bounds(x=(given,), method=method, C=forms)
            out[f"{key}/margins"] = low.detach().numpy()
            print(name, method, (high - low.mean()).mean().item())
    path = pathlib.Path(__file__).with_name("certify_lirpa.npz")
    np.savez_compressed(path, **out)
    print(path.stat().st_size)


if __name__ == "__main__":
    main()
