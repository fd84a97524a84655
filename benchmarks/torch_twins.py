"""The same network in torch, with the same weights, for comparisons."""

from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks import small_cnn, vs_torch
from jaxrobust import convert, models


class Normalised(torch.nn.Module):
    """A network with the normalisation of its images inside."""

    mean: Any
    std: Any

    def __init__(self, net: torch.nn.Module, mean: Any, std: Any) -> None:
        """Keeps mean and standard deviation per channel, None for neither."""
        super().__init__()
        self.net = net
        for name, value, usual in (("mean", mean, 0.0), ("std", std, 1.0)):
            tensor = torch.tensor([usual] if value is None else value)
            self.register_buffer(name, tensor.float().reshape(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images in [0, 1] to logits."""
        return self.net((x - self.mean) / self.std)


def twin_of(model: Any, variables: Any) -> torch.nn.Module:
    """Returns the torch network of a `SmallCNN` or of `ssp_cifar` with plain blocks.

    Raises:
      ValueError: for another network.
    """
    if isinstance(model, small_cnn.SmallCNN):
        return small_cnn.to_torch(variables)
    if type(model) is not type(models.create("ssp_cifar")):
        raise ValueError(f"there is no torch twin of {type(model).__name__} here.")
    net = vs_torch.Net(model.blocks)
    fill(net, model, variables)
    return Normalised(net, model.mean, model.std).eval()


def fill(net: torch.nn.Module, model: Any, variables: Any) -> None:
    """Puts our weights into a torch network that `convert.from_torch` reads.

    Every torch entry is numbered, and where the numbers end up after the conversion
    says where each entry comes from.
    """
    state, numbered, count = net.state_dict(), {}, 0
    for name, tensor in state.items():
        size = tensor.numel()
        numbers = np.arange(count, count + size, dtype=np.float64)
        numbered[name] = numbers.reshape(tuple(tensor.shape))
        count += size
    with jax.enable_x64(True):
        places = convert.from_torch(model, numbered)
    flat = np.zeros(count)
    ours = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    pairs = zip(jax.tree.leaves(places), jax.tree.leaves(ours), strict=True)
    for place, value in pairs:
        flat[np.asarray(place, np.int64)] = np.asarray(value)
    for name, numbers in numbered.items():
        if "num_batches" not in name:
            new = torch.from_numpy(flat[numbers.astype(np.int64)])
            state[name].copy_(new.to(state[name].dtype))
