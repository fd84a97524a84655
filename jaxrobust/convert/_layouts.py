"""Which network a published checkpoint holds, from its arrays and its folder's name.

The names and shapes of the arrays tell the family and every size. What they cannot tell
is in the layout of the originals' checkpoints: sspnet's `6blocks_7iters/ssp2` or the
arguments that it saves beside the weights. The normalisation, which the originals keep
outside the network, is that of their data loaders.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.convert._classifiers import KUANGLIU
from jaxrobust.convert._names import translate
from jaxrobust.convert._normalization import split_normalization
from jaxrobust.convert._torch import bare_names
from jaxrobust.models import preact_resnet, resnet, vgg
from jaxrobust.models.fpd import RESNET_DEPTHS, RESNEXT_DEPTHS

Arrays = Mapping[str, np.ndarray]
Fields = dict[str, Any]

_INTEGRATORS = ("res", "midrk2", "ssp2", "ssp3", "ark")
# The ark networks of sspnet mix kinds of blocks.
_ARK = ("ark", "res", "ssp2", "ssp2")
_CIFAR_STD = (0.2023, 0.1994, 0.2010)
# Sic: the release of sspnet has another blue than everyone else.
_SSP_CIFAR = {"mean": (0.4914, 0.4822, 0.2265), "std": _CIFAR_STD}
_CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": _CIFAR_STD}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_TINY = {"mean": (0.4802, 0.4481, 0.3975), "std": (0.2770, 0.2691, 0.2821)}
_DEEPMIND_CIFAR = {**_CIFAR, "std": (0.2471, 0.2435, 0.2616)}
_DEEPMIND_100 = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
_SSC = {100: _IMAGENET, 200: _TINY}  # by number of classes


class Clues(NamedTuple):
    """What is known about a checkpoint.

    `folders` are the parts of its path, the file's name last, `options` the arguments
    of the training program where it has them, `given` the fields that the user says.
    """

    arrays: Arrays
    folders: Sequence[str]
    options: Mapping[str, Any]
    given: Fields


def infer(source: Clues) -> Fields:
    """Returns `name` and the fields of the network that a checkpoint holds.

    Raises:
      ValueError: saying what cannot be told, or does not fit together.
    """
    bare = bare_names(source.arrays)
    arrays = {bare[k]: v for k, v in source.arrays.items()}
    buffers, arrays = split_normalization(arrays)
    for mark, build in _FAMILIES:
        if any(re.fullmatch(mark, name) for name in arrays):
            found = build(source._replace(arrays=arrays))
            return {**found, **buffers, **source.given}
    raise ValueError("its arrays are of no network known here; give --model")


def _ssp_cifar(source: Clues) -> Fields:
    stages = _count(source.arrays, "block", first=1)
    fields = _ssp_blocks(source, [f"block{k}." for k in range(1, stages + 1)])
    fields["width"] = _rows(source.arrays, "conv.weight")
    if stages == 4:
        return {**_classifier("ssp_tinyimagenet", source, "fc", **fields), **_HALF}
    return {**_classifier("ssp_cifar", source, "fc", **fields), **_SSP_CIFAR}


def _ssp_mnist(source: Clues) -> Fields:
    fields = _ssp_blocks(source, ["blocks."])
    return _classifier("ssp_mnist", source, "linear.4", **fields)


def _ssp_blocks(source: Clues, stages: Sequence[str]) -> Fields:
    """Returns integrator, blocks and norm of networks whose stages are called so."""
    arrays, given = source.arrays, source.given
    blocks = _count(arrays, stages[0])
    named = [m for part in source.folders if (m := re.search(r"(\d+)blocks", part))]
    if named and int(named[-1][1]) != blocks and "blocks" not in given:
        raise ValueError(
            f"its folder says {named[-1][1]} blocks, its arrays are of {blocks}; "
            f"give --field blocks={blocks}"
        )
    averaged = any(name.endswith("n1.running_mean") for name in arrays)
    norm = "b" if averaged else source.options.get("norm", "g")
    integrator = given.get("integrator") or _integrator(source, stages)
    return {"integrator": integrator, "blocks": blocks, "norm": norm}


def _integrator(source: Clues, stages: Sequence[str]) -> str:
    """Returns the name that folder or arguments say, checked with the arrays."""
    told = source.options.get("model") or _told(source.folders)
    if told not in _INTEGRATORS:
        raise ValueError(
            "neither its folder nor its arguments say which integrator "
            f"({', '.join(_INTEGRATORS)}) it has; give --field integrator=..."
        )
    mixed = told == "ark" and len(stages) > 1
    integrators = _ARK[: len(stages)] if mixed else (told,) * len(stages)
    for stage, integrator in zip(stages, integrators, strict=True):
        kind = _ssp_kind(source.arrays, stage)
        if integrator not in kind:
            raise ValueError(
                f"it is called {told}, but the blocks of {stage.rstrip('.')} are of "
                f"the kind {' or '.join(kind)}; give --field integrator=..."
            )
    return ",".join(integrators) if mixed else told


def _ssp_kind(arrays: Arrays, stage: str) -> tuple[str, ...]:
    """Returns the integrators whose blocks have the names of a stage's first block."""
    if f"{stage}0.a21" in arrays:
        return ("ark",)
    if any(name.startswith(f"{stage}0.block.") for name in arrays):
        return ("ssp2", "ssp3")
    return ("res", "midrk2")


def _told(folders: Sequence[str]) -> str:
    """Returns the integrator that the innermost part of a path names."""
    for part in reversed(folders):
        words = set(re.split(r"[^a-z0-9]+", part.lower())) & set(_INTEGRATORS)
        if len(words) == 1:
            return words.pop()
    return ""


def _pcl(source: Clues) -> Fields:
    depth = 6 * _count(source.arrays, "layer1.") + 2
    return {**_classifier("pcl_resnet", source, "fcf", depth=depth), **_CIFAR}


def _wide(source: Clues) -> Fields:
    fields = _wide_sizes(source, "block{}.layer.", 1, "conv1", "fc")
    learnt = "activation.alpha" in source.arrays
    return fields | ({"activation": "pssilu"} if learnt else {})


def _robust_wide(source: Clues) -> Fields:
    return _wide_sizes(source, "blocks.{}.layer.", 0, "conv1", "fc")


def _wide_sizes(source: Clues, stage: str, first: int, conv: str, head: str) -> Fields:
    stages = [stage.format(k) for k in range(first, first + 3)]
    channels = tuple(_rows(source.arrays, f"{k}0.{conv}.weight") for k in stages)
    fields: Fields = {"depth": 6 * _count(source.arrays, stages[0]) + 4}
    width = channels[0] // 16
    if width and channels == (16 * width, 32 * width, 64 * width):
        fields["width"] = width
    else:
        fields["channels"] = channels
    return _classifier("wide_resnet", source, head, **fields)


def _deepmind(classes: int) -> Fields:
    """Returns what its networks share; their normalisation is not in the weights."""
    normalization = _DEEPMIND_100 if classes == 100 else _DEEPMIND_CIFAR
    return {"activation": "swish", "same_padding": True, **normalization}


def _deepmind_wide(source: Clues) -> Fields:
    fields = _wide_sizes(source, "layer.{}.block.", 0, "conv_0", "logits")
    sparse = "layer.0.block.0.meansparse_0.threshold" in source.arrays
    fields |= {"mean_sparse": True} if sparse else {}
    return {**fields, **_deepmind(fields["num_classes"])}


def _preact(source: Clues) -> Fields:
    """Its originals without a last norm start shortcuts at the input of a block."""
    final_norm = "bn.weight" in source.arrays
    fields = _preact_sizes(source, "layer{}.", 1, "conv1", "linear")
    return {**fields, "final_norm": final_norm, "shortcut_on_input": not final_norm}


def _deepmind_preact(source: Clues) -> Fields:
    fields = _preact_sizes(source, "layer_{}.", 0, "conv_2d", "logits")
    fields |= {"shortcut_on_input": True, "shortcut_kernel": 3}
    return {**fields, **_deepmind(fields["num_classes"])}


def _preact_sizes(
    source: Clues, stage: str, first: int, stem: str, head: str
) -> Fields:
    counts = _blocks(source.arrays, stage, first)
    depths = {tuple(blocks): depth for depth, blocks in preact_resnet.DEPTHS.items()}
    if counts not in depths:
        raise ValueError(f"no PreAct ResNet here has {counts} blocks in its stages")
    width = _rows(source.arrays, f"{stem}.weight")
    return _classifier("preact_resnet", source, head, depth=depths[counts], width=width)


def _vgg(source: Clues) -> Fields:
    convolutions = sum(v.ndim == 4 for v in source.arrays.values())
    depths = {sum(counts): depth for depth, counts in vgg.DEPTHS.items()}
    if convolutions not in depths:
        raise ValueError(f"no VGG here has {convolutions} convolutions")
    width = _rows(source.arrays, "features.0.weight")
    return _classifier("vgg", source, "fc", depth=depths[convolutions], width=width)


def _resnet_cifar(source: Clues) -> Fields:
    depth = 6 * _count(source.arrays, "layer1.") + 2
    width = _rows(source.arrays, "conv1.weight")
    return _classifier("resnet_cifar", source, "linear", depth=depth, width=width)


def _resnet(source: Clues) -> Fields:
    arrays = {translate(k, KUANGLIU): v for k, v in source.arrays.items()}
    source = source._replace(arrays=arrays)
    counts = _blocks(arrays, "layer{}.", 1)
    convolutions = 3 if "layer1.0.conv3.weight" in arrays else 2
    depth = convolutions * sum(counts) + 2
    if resnet.DEPTHS.get(depth) != counts:
        raise ValueError(f"no ResNet here has {counts} blocks in its stages")
    stem = "imagenet" if arrays["conv1.weight"].shape[-1] == 7 else "cifar"
    width = _rows(arrays, "conv1.weight")
    fields = _classifier("resnet", source, "fc", depth=depth, stem=stem, width=width)
    if convolutions == 3:
        fields["widening"] = _rows(arrays, "layer1.0.conv1.weight") // width
    return {**fields, **_SSC.get(fields["num_classes"], {})}


def _fpd_resnet(source: Clues) -> Fields:
    fields = _fpd_layers(source, "layer{}.", 1, RESNET_DEPTHS)
    width = _rows(source.arrays, "group1.conv1.weight")
    return _fpd("fpd_resnet", source, "group2.fc", width=width, **fields)


def _fpd_resnext(source: Clues) -> Fields:
    fields = _fpd_layers(source, "conv{}.", 2, RESNEXT_DEPTHS)
    width = _rows(source.arrays, "conv1.0.weight")
    # Torch's kernels hold the input channels of one group.
    groups = width // source.arrays["conv2.0.split_transforms.0.weight"].shape[1]
    fields = {**fields, "width": width, "cardinality": groups}
    return _fpd("fpd_resnext", source, "fc", **fields)


def _fpd_layers(
    source: Clues, stage: str, first: int, depths: Mapping[int, tuple[int, ...]]
) -> Fields:
    """Returns the depth that has so many blocks, or their numbers where none has."""
    counts = _blocks(source.arrays, stage, first)
    known = {blocks: depth for depth, blocks in depths.items()}
    return {"depth": known[counts]} if counts in known else {"layers": counts}


def _fpd(name: str, source: Clues, head: str, **fields: Any) -> Fields:
    """The folders of the release (ResNet-101/SVHN) say what is trained with dropout."""
    fields = _classifier(name, source, head, **fields)
    caltech = {102: "caltech101", 257: "caltech256"}.get(fields["num_classes"])
    words = {part.lower() for part in source.folders}
    named = [variant for variant in ("mnist", "svhn") if variant in words]
    if variant := caltech or (named[0] if named else ""):
        fields["variant"] = variant
    if "smooth3.weight" in source.arrays:
        fields["pyramid"] = _rows(source.arrays, "smooth3.weight")
    else:
        fields["defended"] = False
    return {**fields, **(_IMAGENET if caltech else {})}


def _classifier(name: str, source: Clues, head: str, **fields: Any) -> Fields:
    classes = _rows(source.arrays, f"{head}.weight")
    return {"name": name, **fields, "num_classes": classes}


def _sized(name: str, head: str) -> Callable[[Clues], Fields]:
    """A family in which only the number of classes differs."""
    return lambda source: _classifier(name, source, head)


# The first mark that one of a checkpoint's names matches decides.
_FAMILIES: Sequence[tuple[str, Callable[[Clues], Fields]]] = (
    (r"sub1\..*", _ssp_cifar),
    (r"downsample\.0\.weight", _ssp_mnist),
    (r"fcf\.weight", _pcl),
    (r"group2\.fc\.weight", _fpd_resnet),
    (r"conv2\.0\.split_transforms\.0\.weight", _fpd_resnext),
    (r"block1\.layer\.0\..*", _wide),
    (r"stem_conv\.weight", _robust_wide),
    (r"fc_layer\.0\.weight", _sized("cnn3", "fc_layer.2")),
    (r"classifier\.6\.weight", _sized("alexnet", "classifier.6")),
    (r"features\.0\.weight", _vgg),
    (r"conv1\.0\.weight", _sized("lenet_sigmoid", "fc3.0")),
    (r"fc3\.weight", _sized("lenet5", "fc3")),
    (r"layer4\.0\.shortcut\.1\.weight", _resnet),
    (r"layer4\.0\.shortcut\.0\.weight", _preact),
    (r"init_conv\.weight", _deepmind_wide),
    (r"conv_2d\.weight", _deepmind_preact),
    (r"linear\.weight", _resnet_cifar),
    (r"layer4\.0\.conv1\.weight", _resnet),
)


def _blocks(arrays: Arrays, stage: str, first: int) -> tuple[int, ...]:
    """Returns the blocks of four stages, called so and numbered from `first` on."""
    return tuple(_count(arrays, stage.format(k)) for k in range(first, first + 4))


def _count(arrays: Arrays, start: str, first: int = 0) -> int:
    """Returns how many numbers from `first` on stand after a start of names."""
    pattern = re.compile(re.escape(start) + r"(\d+)\..*")
    found = map(pattern.fullmatch, arrays)
    return max((int(match[1]) for match in found if match), default=-1) + 1 - first


def _rows(arrays: Arrays, name: str) -> int:
    """Returns the outputs of a layer."""
    if name not in arrays:
        raise ValueError(f"it has no array {name}")
    return arrays[name].shape[0]
