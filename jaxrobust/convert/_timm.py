"""Names of ConvNeXt and the vision transformers in timm (1.0) and older code."""

import math
from collections.abc import Collection, Mapping

import numpy as np

from jaxrobust.convert._names import Dialect, Names, conv_norm, join, mean_sparse
from jaxrobust.models import convnext, swin, vit, xcit

_BLOCK = {
    **{"norm1": "norm1", "norm2": "norm2", "qkv": "attn.qkv", "proj": "attn.proj"},
    **{"mlp_fc1": "mlp.fc1", "mlp_fc2": "mlp.fc2"},
}
_STEM = "patch_embed.proj"


def conv_next(model: convnext.ConvNeXt) -> Names:
    """Names of timm's `ConvNeXt`; its stems of convolutions are Singh et al.'s."""
    ends = {"head_norm": "head.norm", "classifier": "head.fc"}
    for k in range(2, 5):
        ends[f"merge{k}_norm"] = f"stages.{k - 1}.downsample.0"
        ends[f"merge{k}"] = f"stages.{k - 1}.downsample.1"
    if model.stem == "patch":
        ends |= {"stem": "stem.0", "stem_norm": "stem.1"}
    else:
        ends |= _conv_stem(3 if model.stem == "conv3" else 2, "stem.stem")
    block = {"conv": "conv_dw", "norm": "norm", "gamma": "gamma"}
    block |= {"mlp_fc1": "mlp.fc1", "mlp_fc2": "mlp.fc2"}
    names = Names(block)
    if model.mean_sparse:
        sparse = {"mlp_sparse": "mlp.act.0", "sparse": "drop_path.1"}
        names = join([names, mean_sparse(sparse, "momentum", "epsilon")])
    blocks = names.in_stages("stages.{}.blocks.{}", model.layers, 0)
    return join([Names(ends), *blocks])


def vision_transformer(model: vit.ViT) -> Names:
    """Names of timm's `VisionTransformer`."""
    ends = {"cls_token": "cls_token", "pos_embed": "pos_embed"}
    ends |= {"head_norm": "norm", "classifier": "head"}
    if model.stem == "patch":
        ends["stem"] = _STEM
    else:
        ends |= _conv_stem(4, f"{_STEM}.stem")
        ends["stem/project"] = f"{_STEM}.stem.12"
    return join([Names(ends), *_numbered(_BLOCK, "block", "blocks", model.blocks)])


def vit_shape(model: vit.ViT, given: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Returns the images `[1, H, H, 3]` that the position embeddings are for."""
    found = given.get("pos_embed")
    side = 14
    if found is not None and found.ndim == 3:
        side = math.isqrt(max(found.shape[1] - 1, 1))
    return (1, vit.PATCH * side, vit.PATCH * side, 3)


def swin_transformer(model: swin.Swin) -> Names:
    """Names of timm's `SwinTransformer`."""
    ends = {"stem": _STEM, "stem_norm": "patch_embed.norm"}
    ends |= {"head_norm": "norm", "classifier": "head.fc"}
    for k in range(2, 5):
        ends[f"merge{k}_norm"] = f"layers.{k - 1}.downsample.norm"
        ends[f"merge{k}"] = f"layers.{k - 1}.downsample.reduction"
    block = {**_BLOCK, "position_bias": "attn.relative_position_bias_table"}
    made = "made of the sizes, not learnt"
    unused = {"attn_mask": made, "attn.relative_position_index": made}
    names = Names(block, unused=unused)
    if model.mean_sparse:
        sparse = {"mlp_sparse": "mlp.meansparse1", "mlp_sparse_end": "mlp.meansparse2"}
        sparse |= {"sparse1": "meansparse1", "sparse2": "meansparse2"}
        names = join([names, mean_sparse(sparse)])
    blocks = names.in_stages("layers.{}.blocks.{}", model.layers, 0)
    return join([Names(ends), *blocks])


def swin_shape(model: swin.Swin, given: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Returns the images `[1, H, H, 3]` whose last stage is one window.

    That may be smaller than the others: its table of positions tells.
    """
    table = given.get("layers.3.blocks.0.attn.relative_position_bias_table")
    side = model.window
    if table is not None and table.ndim == 2:
        side = min(side, (math.isqrt(len(table)) + 1) // 2)
    return (1, swin.UNIT * side, swin.UNIT * side, 3)


def swin_dialect(names: Collection[str]) -> Dialect:
    """Returns what Microsoft's names, and timm's up to 0.6, mean.

    There a merge of patches belongs to the stage before it.
    """
    if not any(name.startswith("layers.0.downsample.") for name in names):
        return ()
    return (
        (
            r"^layers\.(\d+)\.downsample\.",
            lambda found: f"layers.{int(found[1]) + 1}.downsample.",
        ),
        (r"^head\.(?=weight|bias)", "head.fc."),
    )


def x_cit(model: xcit.XCiT) -> Names:
    """Names of timm's `Xcit`."""
    ends = {"cls_token": "cls_token", "positions": "pos_embed.token_projection"}
    ends |= {"head_norm": "norm", "classifier": "head"}
    for n in range(1, 5):
        place = f"{_STEM}.{2 * (n - 1)}"
        ends |= conv_norm(f"stem{n}", f"{place}.0", f"{place}.1")
    scales = {"gamma1": "gamma1", "gamma2": "gamma2"}
    block = {**_BLOCK, **scales, "gamma3": "gamma3", "norm3": "norm3"}
    block["temperature"] = "attn.temperature"
    for part, name in (("conv1", "conv1"), ("norm", "bn"), ("conv2", "conv2")):
        block[f"local_{part}"] = f"local_mp.{name}"
    last = {**_BLOCK, **scales, **{name: f"attn.{name}" for name in "qkv"}}
    del last["qkv"]
    blocks = _numbered(block, "block", "blocks", model.blocks)
    ends_of_class = _numbered(last, "class_block", "cls_attn_blocks", 2)
    return join([Names(ends), *blocks, *ends_of_class])


# The release's name of what timm calls `pos_embed`.
XCIT = ((r"^pos_embeder\.", "pos_embed."),)


def _conv_stem(count: int, theirs: str) -> dict[str, str]:
    """Names in a `Sequential` of convolution, norm and GELU, over and over."""
    modules = {}
    for n in range(count):
        modules[f"stem/conv{n + 1}"] = f"{theirs}.{3 * n}"
        modules[f"stem/norm{n + 1}"] = f"{theirs}.{3 * n + 1}"
    return modules


def _numbered(
    modules: Mapping[str, str], ours: str, theirs: str, count: int
) -> list[Names]:
    block = Names(modules)
    return [block.under(f"{ours}{n}", f"{theirs}.{n}") for n in range(count)]
