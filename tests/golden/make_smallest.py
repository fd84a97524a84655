"""Runs attacks of adv-lib on the golden network and keeps what they find.

    python tests/golden/make_smallest.py

Needs torch and adv-lib 0.2.8. Network, images and labels are those of ta_fgsm.npz, in
float64. Written beside this script: smallest.npz, per attack the adversarial images of
the first `KEPT` images, float32 NHWC, and their distances.
"""

import pathlib
import sys
import types

import numpy as np
import torch
from torch import nn

# adv-lib imports them for a distance and for plots that are not used here.
for missing in ("torchvision", "visdom"):
    sys.modules.setdefault(missing, types.SimpleNamespace(models=None))  # pyright: ignore
import adv_lib.attacks  # noqa: E402
from adv_lib.attacks.sigma_zero import sigma_zero  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
KEPT = 4
FMN = {"l0": 0, "l1": 1, "l2": 2, "linf": float("inf")}


class Net(nn.Module):
    """Three tanh convolutions and a linear layer; see tests/attacks/conftest.py."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1)
        self.conv2 = nn.Conv2d(8, 16, 3, 2, 1)
        self.conv3 = nn.Conv2d(16, 16, 3, 2, 1)
        self.fc = nn.Linear(256, 10)

    def forward(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.tanh(conv(x))
        return self.fc(x.flatten(1))


def main() -> None:
    """Writes smallest.npz."""
    with np.load(HERE / "ta_fgsm.npz") as data:
        state = {k[3:]: torch.tensor(data[k]) for k in data if k.startswith("sd/")}
        x, y = torch.tensor(data["x"][:KEPT]).double(), torch.tensor(data["y"][:KEPT])
    net = Net().double()
    net.load_state_dict(state)
    runs = {
        "ddn": (2, adv_lib.attacks.ddn(net, x, y, steps=30, levels=None)),
        "sigma_zero_l0": (0, sigma_zero(net, x, y, num_steps=60)),
    }
    for name, p in FMN.items():
        runs[f"fmn_{name}"] = p, adv_lib.attacks.fmn(net, x, y, norm=p, steps=30)
    found = {}
    for name, (p, x_adv) in runs.items():
        fooled = net(x_adv).argmax(1) != y
        distance = (x_adv - x).flatten(1).norm(p=p, dim=1)
        distance = torch.where(fooled, distance, torch.inf)
        print(name, "median", float(distance.median()), "fooled", int(fooled.sum()))
        found[f"{name}/distance"] = distance.detach().numpy()
        images = x_adv.detach().numpy().transpose(0, 2, 3, 1)
        found[f"{name}/x_adv"] = images.astype(np.float32)
    np.savez_compressed(HERE / "smallest.npz", **found)


if __name__ == "__main__":
    main()
