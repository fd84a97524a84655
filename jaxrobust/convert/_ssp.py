"""Names of the SSP networks in their original, github.com/matbambbang/sspnet.

A block there registers its layers twice: by name, and by position in a `Sequential`
called `residual` (`f` in an ark block).
"""

from jaxrobust.convert._names import Names, join
from jaxrobust.models import ssp

_BRANCH = {"norm1": "n1", "conv1": "conv1", "norm2": "n2", "conv2": "conv2"}
_POSITIONS = {"0": "n1", "2": "conv1", "3": "n2", "5": "conv2"}
_MNIST_STEM = {
    "stem_conv1": "downsample.0",
    "stem_norm1": "downsample.1",
    "stem_conv2": "downsample.3",
    "stem_norm2": "downsample.4",
    "stem_conv3": "downsample.6",
    "head_norm": "linear.0",
    "classifier": "linear.4",
}


def _branch(sequential: str = "residual") -> Names:
    return Names(_BRANCH, {f"{sequential}.{i}": name for i, name in _POSITIONS.items()})


_SHORTCUT = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}
TRANSITION = join([_branch(), Names(_SHORTCUT)])


def block(model: ssp.Block) -> Names:
    """Names of one block."""
    if model.integrator == "ark":
        return join([_branch("f"), Names({"a": "a21", "b": "b10"})])
    return _branch().under("", "block" if model.integrator in ("ssp2", "ssp3") else "")


def net(model: ssp.SSPNet) -> Names:
    """Names of the CIFAR-10 and TinyImageNet networks."""
    parts = [Names({"stem": "conv", "classifier": "fc"})]
    for k, integrator in enumerate(model.stage_integrators(), 1):
        if k > 1:
            parts.append(TRANSITION.under(f"transition{k - 1}", f"sub{k - 1}"))
        names = block(ssp.Block(integrator))
        for n in range(model.blocks):
            parts.append(names.under(f"stage{k}_block{n}", f"block{k}.{n}"))
    return join(parts)


def mnist(model: ssp.SSPMnist) -> Names:
    """Names of the MNIST network."""
    names = block(ssp.Block(model.integrator))
    return join([Names(_MNIST_STEM), *names.in_stages("blocks.{1}", [model.blocks])])
