"""Feature pyramid decoder: an encoder run twice, on the image and on its restoration.

Li et al., "Enhancing Intrinsic Adversarial Robustness via Feature Pyramid Decoder",
CVPR 2020, arXiv 2005.02552, in the form of its released code.
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from jaxrobust._checks import check_images, nearest_match
from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._decoder import Decoder as Decoder
from jaxrobust.models._encoders import LEVELS
from jaxrobust.models._encoders import Encoder as Encoder
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._spectral import Classifier as Classifier
from jaxrobust.models._spectral import spectral_norm as spectral_norm
from jaxrobust.models.layers import Features

RESNET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
RESNEXT_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 4, 36, 3)}
# Name of a release's folder: classes and dropout before the classifier.
VARIANTS = {
    "mnist": (10, 0.0),
    "svhn": (10, 0.5),
    "caltech101": (102, 0.5),
    "caltech256": (257, 0.5),
}
SWITCHES = (
    "restoration",
    "front_denoising",
    "back_denoising",
    "input_denoising",
    "constrained",
)


def gram_denoise(x: Features, residual: Features | None = None) -> Features:
    """Returns (G x) / P + residual, with G = x^T x over the P positions (section 3.2).

    G is `[C, C]`, one for each image, not normalised. The paper's non-local block has
    1x1 convolutions besides; the release has none, so there are no weights. Computed in
    float32 or wider. `residual` is by default `x` itself, features `[B, H, W, C]`.
    """
    batch, height, width, channels = x.shape
    positions = x.reshape(batch, height * width, channels)
    positions = positions.astype(jnp.promote_types(x.dtype, jnp.float32))
    # G is not normalised: its entries grow with P and outgrow half precision.
    gram = jnp.einsum("bpi,bpj->bij", positions, positions)
    chex.assert_shape(gram, (batch, channels, channels))
    moved = jnp.einsum("bpi,bij->bpj", positions, gram) / (height * width)
    residual = x if residual is None else residual
    return moved.reshape(x.shape).astype(x.dtype) + residual


class FPD(layers.Network):
    """A classifier around an encoder: images `[B, H, W, C]` to `Outputs`.

    Pass 1 encodes the image and decodes c2 to c5 to a restored image x'. Pass 2, with
    the same weights, encodes (G x) / P + x', the Gram denoising of the image with x' in
    place of the residual, pools c5 and classifies. In train mode each pass moves the
    running statistics, the first before the second. Without restoration there is pass 2
    alone, on the image.

    `features` holds `c2` to `c5` of pass 2 and `penultimate` (pooled c5);
    `Outputs.restored` is x', on the scale of the images, not clipped. `mean` and `std`
    are of what the encoder gets, in both passes.

    Attributes:
      encoder: called as `encoder(x, train=..., denoise=...)` (the last only where
        denoising is on); returns a mapping with c2 to c5, features `[B, h, w, D]`.
        `denoise` is a function for it to apply after its stem and first stage.
      restoration: decode and classify the restored image.
      front_denoising: Gram denoising inside pass 1.
      back_denoising: inside pass 2.
      input_denoising: Gram denoising of the image on its way to pass 2; without it pass
        2 encodes x' alone.
      constrained: tanh on the logits.
      spectral_bound: largest spectral norm of the classifier's kernel, 0 for any.
      dropout: rate before the classifier.
      pyramid: channels of the decoder's pathway.
      widths: channels of its transposed convolutions before the last.
      torch_init: torch's initial kernels in the decoder; else N(0, sqrt(2 / (k k
        out))).
    """

    encoder: nn.Module
    restoration: bool = True
    front_denoising: bool = True
    back_denoising: bool = True
    input_denoising: bool = True
    constrained: bool = True
    spectral_bound: float = 0.0
    dropout: float = 0.5
    pyramid: int = 256
    widths: tuple[int, ...] = (64, 16)
    torch_init: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        if not 0 <= self.spectral_bound < math.inf:
            raise ValueError(
                f"`spectral_bound` must be at least 0 (0 is no bound) and finite, got "
                f"{self.spectral_bound}."
            )
        if not isinstance(self.widths, tuple | list) or len(self.widths) < 2:
            raise ValueError(f"`widths` needs at least two numbers, got {self.widths}.")
        layers.check_sizes(**{f"widths[{n}]": w for n, w in enumerate(self.widths)})
        if (self.front_denoising or self.back_denoising) and not denoises(self.encoder):
            raise ValueError(
                f"{type(self.encoder).__name__} takes no `denoise` argument, so "
                "nothing can be denoised inside it: set `front_denoising` and "
                "`back_denoising` to False or give its `__call__` that argument."
            )

    @property
    def recomputes(self) -> bool:
        """Whether the encoder has blocks that are computed again on request."""
        return getattr(self.encoder, "recomputes", hasattr(self.encoder, "remat"))

    def _encode(self, x: Images, denoise: bool, train: bool) -> dict[str, Features]:
        options: dict[str, Any] = {"denoise": gram_denoise} if denoise else {}
        encode: Any = self.encoder
        found = encode(self.normalized(x), train=train, **options)
        return _levels(found, type(self.encoder).__name__)

    def _restore(self, images: Images, train: bool) -> Images:
        levels = self._encode(images, self.front_denoising, train)
        decoder = Decoder(
            images.shape[-1],
            _ratio(images, levels["c2"]),
            self.pyramid,
            self.widths,
            self.torch_init,
            computing=self.computing,
            name="decoder",
        )
        # What pass 2 gets is an image again, whatever pass 1 computed in.
        return decoder(levels).astype(images.dtype)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        check_images(images, "images")
        restored, x = None, images
        if self.restoration:
            restored = self._restore(images, train)
            x = gram_denoise(images, restored) if self.input_denoising else restored
        levels = self._encode(x, self.back_denoising, train)
        pooled = jnp.mean(levels["c5"], (1, 2))
        classifier = Classifier(
            self.num_classes,
            self.constrained,
            self.spectral_bound,
            self.computing,
            name="classifier",
        )
        logits = classifier(layers.dropout(self, pooled, self.dropout, train))
        return Outputs(logits, {**levels, "penultimate": pooled}, restored)


def denoises(encoder: nn.Module) -> bool:
    """Says whether an encoder takes the `denoise` argument."""
    taken = inspect.signature(type(encoder).__call__).parameters.values()
    return any(p.name == "denoise" or p.kind is p.VAR_KEYWORD for p in taken)


def _levels(found: Any, name: str) -> dict[str, Features]:
    """Reads c2 to c5 from what an encoder returned."""
    if isinstance(found, Outputs):
        found = found.features
    if isinstance(found, tuple | list) and len(found) == len(LEVELS):
        found = dict(zip(LEVELS, found, strict=True))
    if not isinstance(found, Mapping) or not set(LEVELS) <= set(found):
        given = sorted(found) if isinstance(found, Mapping) else type(found).__name__
        raise TypeError(
            f"`encoder` {name} must return a mapping with c2, c3, c4, c5, got {given}."
        )
    return {level: found[level] for level in LEVELS}


def _ratio(images: Images, c2: Features) -> int:
    """Returns by what power of 2 the sides of the image are those of c2, or raises."""
    (height, width), (rows, columns) = images.shape[1:3], c2.shape[1:3]
    ratio = 2 ** round(math.log2(height / rows))
    if (rows * ratio, columns * ratio) != (height, width):
        raise ValueError(
            f"images of {height}x{width} pixels (`images` of shape {images.shape}) "
            f"cannot be restored from a c2 of {rows}x{columns}: with this encoder both "
            f"sides must be multiples of {max(1, ratio)}."
        )
    return ratio


def fpd(encoder: nn.Module, **fields: Any) -> FPD:
    """Puts a feature pyramid decoder around an encoder.

    Args:
      encoder: any module whose `__call__(x, *, train, denoise)` returns c2 to c5; see
        `FPD`. If it has no `denoise`, there is none inside it.
      **fields: the other fields of `FPD`: `num_classes`, `restoration`,
        `front_denoising`, `back_denoising`, `constrained` ...
    """
    inside = denoises(encoder)
    defaults = {"front_denoising": inside, "back_denoising": inside}
    return FPD(encoder, **{**defaults, **fields})


def fpd_resnet(
    depth: int = 101,
    layers: tuple[int, int, int, int] | None = None,
    *,
    variant: str = "mnist",
    defended: bool = True,
    width: int = 64,
    stem: str = "imagenet",
    **fields: Any,
) -> FPD:
    """Builds FPD on a bottleneck ResNet.

    Args:
      depth: 50, 101 or 152; the decoder's pathway is half as wide at 50, as released.
      layers: blocks of each stage, in place of the depth's.
      variant: `mnist`, `svhn`, `caltech101` or `caltech256`, a folder of the release:
        the number of classes, and dropout (.5, none on MNIST).
      defended: ELU and all modules on. Otherwise ReLU, and all off: the plain network
        on which the paper crafts its black-box examples.
      width: channels of the stem.
      stem: `imagenet`, as released, or `cifar` for small images; see `Encoder`.
      **fields: of `FPD`; they win over what `variant` and `defended` say.

    Raises:
      ValueError: for an unknown depth or variant.
    """
    known = _blocks(depth, RESNET_DEPTHS)  # a wrong depth is told with layers, too
    blocks = layers or known
    fields = {"pyramid": (2 if depth == 50 else 4) * width, **fields}
    return _build(variant, defended, fields, layers=blocks, width=width, stem=stem)


def fpd_resnext(
    depth: int = 50,
    layers: tuple[int, int, int, int] | None = None,
    *,
    variant: str = "svhn",
    defended: bool = True,
    width: int = 64,
    cardinality: int = 0,
    **fields: Any,
) -> FPD:
    """Builds FPD on the released ResNeXt: a 3x3 stem of stride 1 without pool.

    `cardinality` is the number of groups, in the first 1x1 convolution of a block too;
    by default half the width, 32 as released. See `fpd_resnet` for the other arguments.
    """
    known = _blocks(depth, RESNEXT_DEPTHS)
    encoder = {
        "layers": layers or known,
        "width": width,
        "stem": "cifar",
        "cardinality": cardinality or max(1, width // 2),
        "torch_init": True,
    }
    return _build(variant, defended, {"pyramid": 2 * width, **fields}, **encoder)


def _build(
    variant: str, defended: bool, fields: Mapping[str, Any], **encoder: Any
) -> FPD:
    """Puts FPD around an `Encoder`; `fields` win over those of variant and defence."""
    if variant not in VARIANTS:
        hint = nearest_match(variant, VARIANTS)
        raise ValueError(f"unknown variant {variant!r}. {hint}")
    num_classes, dropout = VARIANTS[variant]
    encoder["computing"] = fields.get("computing", layers.AS_USUAL)
    around = Encoder(activation="elu" if defended else "relu", **encoder)
    defaults = {
        "num_classes": num_classes,
        "dropout": dropout if defended else 0.0,
        "widths": (around.width, max(1, around.width // 4)),
        "torch_init": around.torch_init,
        **dict.fromkeys(SWITCHES, defended),
    }
    return FPD(around, **{**defaults, **fields})


def _blocks(depth: int, known: Mapping[int, Any]) -> tuple[int, int, int, int]:
    if depth not in known:
        raise ValueError(
            f"`depth` must be one of {', '.join(map(str, known))} (or give `layers`, "
            f"the blocks of each stage), got {depth!r}."
        )
    return known[depth]
