"""The flag that makes XLA's programs for CPUs fast."""

import importlib.metadata
import os

_NAME = "--xla_cpu_experimental_ynn_fusion_type"
# Versions that know it. XLA ends a program for a flag that it does not know, so others
# run as they are.
_FROM, _BEFORE = (0, 10), (0, 13)


def tune_cpu() -> bool:
    """Lets convolutions on CPUs use all cores.

    XLA sends them to YNNPACK's fusions, which keep one core busy; this turns those off
    through XLA_FLAGS. Call it before anything runs on a device, as XLA reads its flags
    once. Our programs do; in your own, one line does for all that you jit. Flags of
    yours stay, and one that already says something about the fusions is left alone.

    Returns:
      Whether the flags now say something about them. False for a version of jaxlib that
      may not know the flag.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _NAME in flags:
        return True
    version = importlib.metadata.version("jaxlib").split(".")
    if not _FROM <= (int(version[0]), int(version[1])) < _BEFORE:
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {_NAME}=".strip()
    return True
