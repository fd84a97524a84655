"""Short names of RobustBench's architectures, and what they are here."""

import re
from collections.abc import Mapping
from typing import Any

_SIZED = re.compile(r"(?P<kind>[a-z-]+)-(?P<depth>\d+)-(?P<width>\d+)")
_DEEPMIND = {"activation": "swish", "same_padding": True}
_KINDS: Mapping[str, dict[str, Any]] = {
    "wrn": {"name": "wide_resnet"},
    "dm-wrn": {"name": "wide_resnet", **_DEEPMIND},
    # Those of which there is one, or a few.
    "sparse-dm-wrn": {"name": "wide_resnet", **_DEEPMIND, "mean_sparse": True},
    "pssilu-wrn": {"name": "wide_resnet", "activation": "pssilu"},
    "unit-wrn": {"name": "wide_resnet", "unit_head": True},
    "mma-wrn": {"name": "wide_resnet", "per_image": True},
}
_LAYERS = {"t": (3, 3, 9, 3), "s": (3, 3, 27, 3), "b": (3, 3, 27, 3)}
_LAYERS["l"] = _LAYERS["b"]
_CONVNEXT = {"t": 96, "s": 96, "b": 128, "l": 192}  # channels
_VIT: Mapping[str, dict[str, Any]] = {
    "s": {"name": "vit", "width": 384, "heads": 6},
    "b": {"name": "vit", "width": 768, "heads": 12},
}
_XCIT: Mapping[str, dict[str, Any]] = {
    "s12": {"name": "xcit", "width": 384, "heads": 8},
    "m12": {"name": "xcit", "width": 512, "heads": 8},
    "l12": {"name": "xcit", "width": 768, "heads": 16},
}
_SWIN: Mapping[str, dict[str, Any]] = {
    "b": {"name": "swin", "layers": (2, 2, 18, 2), "width": 128},
    "l": {"name": "swin", "layers": (2, 2, 18, 2), "width": 192},
}


def _convnext(size: str, stem: str) -> dict[str, Any]:
    sizes = {"layers": _LAYERS[size], "width": _CONVNEXT[size]}
    return {"name": "convnext", **sizes, "stem": stem}


_ROBUST_ARCH: dict[str, Any] = {
    **{"name": "wide_resnet", "channels": (216, 432, 864), "layers": (30, 31, 10)},
    **{"stem": 96, "squeeze": 0.25, **_DEEPMIND},
}
_NAMED: Mapping[str, dict[str, Any]] = {
    "sparse-convnext-l": {**_convnext("l", "patch"), "mean_sparse": True},
    "sparse-swin-l": {**_SWIN["l"], "mean_sparse": True},
    "ra-wrn-70-16": _ROBUST_ARCH,
    "sparse-ra-wrn-70-16": {**_ROBUST_ARCH, "mean_sparse": True},
    "wrn-34-r": {"name": "wide_resnet", "depth": 34, "channels": (320, 640, 512)},
    "wrn-50-2": {"name": "resnet", "depth": 50, "widening": 2},
    "prn-18": {"name": "preact_resnet"},
    "prn-18-input": {
        **{"name": "preact_resnet", "final_norm": False, "shortcut_on_input": True}
    },
    "dm-prn-18": {
        **{"name": "preact_resnet", "shortcut_on_input": True, "shortcut_kernel": 3},
        **_DEEPMIND,
    },
    "rn-18": {"name": "resnet", "depth": 18, "stem": "cifar"},
    "rn-50": {"name": "resnet", "depth": 50, "stem": "cifar"},
    "card": {"name": "resnet", "depth": 18, "stem": "cifar", "width": 128},
    "resnet18": {"name": "resnet", "depth": 18},
    "resnet50": {"name": "resnet", "depth": 50},
    "alexnet": {"name": "alexnet"},
    **{f"convnext-{size}": _convnext(size, "patch") for size in "tsbl"},
    **{f"convnext-{size}-cvst": _convnext(size, "conv2") for size in "ts"},
    **{f"convnext-{size}-cvst": _convnext(size, "conv3") for size in "bl"},
    **{f"vit-{size}": fields for size, fields in _VIT.items()},
    **{f"vit-{size}-cvst": fields | {"stem": "conv"} for size, fields in _VIT.items()},
    **{f"xcit-{size}": fields for size, fields in _XCIT.items()},
    **{f"xcit-{size}-cifar": fields | {"patch": 4} for size, fields in _XCIT.items()},
    **{f"swin-{size}": fields for size, fields in _SWIN.items()},
    # In the code of SimMIM.
    "mimir-swin-b": {**_SWIN["b"], "epsilon": 1e-6},
    "mimir-swin-l": {**_SWIN["l"], "epsilon": 1e-6, "window": 14},
}


def describe(network: str, num_classes: int) -> dict[str, Any]:
    """Returns name and fields, for `models.create`, of a network of the table."""
    fields = _NAMED.get(network)
    if fields is None:
        found = _SIZED.fullmatch(network)
        if not found or found["kind"] not in _KINDS:
            raise ValueError(f"no network here is called {network!r}")
        sizes = {name: int(found[name]) for name in ("depth", "width")}
        fields = {**_KINDS[found["kind"]], **sizes}
    return {**fields, "num_classes": num_classes}
