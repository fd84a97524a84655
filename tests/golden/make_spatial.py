"""Runs Foolbox's rotations and shifts, and keeps what they make of one image.

    python tests/golden/make_spatial.py

Needs Foolbox 3.3.4 and PyTorch. Written beside this script: spatial.npz, with the image
`x` [H, W, C], its poses `asked` (degrees, and shifts as Foolbox takes them) and the
moved images [n, H, W, C], float32.
"""

import pathlib

import eagerpy
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from foolbox.attacks.spatial_attack_transformations import rotate_and_shift

HERE = pathlib.Path(__file__).resolve().parent
ASKED = ((0, 0, 0), (0, 1.5, 0), (0, 0, -2), (30, 0, 0), (-20, 1, 2.5), (90, 0.5, 0))


def main() -> None:
    """Writes spatial.npz."""
    x = np.random.default_rng(0).uniform(size=(7, 7, 2)).astype(np.float32)
    images = torch.tensor(x.transpose(2, 0, 1)[None])
    moved = [
        rotate_and_shift(eagerpy.PyTorchTensor(images), (dx, dy), degrees).raw.numpy()
        for degrees, dx, dy in ASKED
    ]
    found = np.concatenate(moved).transpose(0, 2, 3, 1)
    np.savez_compressed(
        HERE / "spatial.npz", x=x, asked=np.array(ASKED, np.float32), moved=found
    )


if __name__ == "__main__":
    main()
