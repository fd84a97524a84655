"""A synthetic set of JPEGs, to try streaming on: no content, only bytes to decode.

    python benchmarks/make_jpegs.py [--data_dir D] [--examples 50000] [--size 64]

Writes TFDS's array_record layout; `tfds:synthetic_jpegs` is its name afterwards. Each
image is smoothed noise over the colour of its class. An example is a function of its
number, so the set is the same everywhere; what a killed run left is made again.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxrobust.data import _builders, _formats, _tfds

NAME = "synthetic_jpegs"
CLASSES = 10


def encoded(number: int, size: int) -> bytes:
    """Returns the JPEG of one example."""
    rng = np.random.default_rng([0, number])
    colour = np.random.default_rng([1, number % CLASSES]).integers(64, 192, 3)
    coarse = np.clip(rng.normal(colour, 40, (size // 8, size // 8, 3)), 0, 255)
    image = Image.fromarray(coarse.astype(np.uint8)).resize((size, size))
    fine = np.asarray(image) + rng.normal(0, 6, (size, size, 3))
    buffer = io.BytesIO()
    pixels = np.clip(fine, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def examples(numbers: range, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the examples as a TFDS builder takes them."""
    for number in numbers:
        image = encoded(number, size)
        yield number, {"image": image, "label": number % CLASSES}


def main() -> None:
    """Writes the set, unless it is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir", help="default: TFDS_DATA_DIR")
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    root = _tfds.data_directory(args.data_dir)
    # One member tells the builder height, width and channels of all.
    member = {"0.jpeg": lambda: encoded(0, args.size)}
    builder = _builders.custom(NAME, root, member)
    if builder.data_path.exists():
        sys.exit(f"{builder.data_path} exists; delete it to make another.")
    train = range(args.examples)
    test = range(args.examples, args.examples + args.examples // 10)
    source = _formats.Splits(
        {
            "train": lambda: examples(train, args.size),
            "test": lambda: examples(test, args.size),
        },
        {"label": tuple(f"colour {label}" for label in range(CLASSES))},
    )
    print(_builders.write(builder, source))


if __name__ == "__main__":
    main()
