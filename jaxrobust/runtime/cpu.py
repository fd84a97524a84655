"""The flags that make XLA's programs for CPUs fast, and quick to compile."""

import importlib.metadata
import os

# Name, value, and the versions of jaxlib that know it, from one to before another: XLA
# ends a program for a flag that it does not know, so others run as they are.
_CORES = ("--xla_cpu_experimental_ynn_fusion_type", "", (0, 10), (0, 13))
_QUICK = (
    ("--xla_cpu_use_fusion_emitters", "false", (0, 10), (0, 11)),
    ("--xla_cpu_parallel_codegen_split_count", "1", (0, 10), (0, 13)),
)


def tune_cpu(*, quick_compile: bool = False) -> bool:
    """Lets convolutions on CPUs use all cores.

    XLA sends them to YNNPACK's fusions, which keep one core busy; this turns those off
    through XLA_FLAGS. Call it before anything runs on a device, as XLA reads its flags
    once. Our programs do; in your own, one line does for all that you jit. Flags of
    yours stay, and one that already says something about the fusions is left alone.

    Args:
      quick_compile: also compile in about half of the time, by an older way to emit
        loops and without parts for several threads: for short runs, as what is
        compiled is a few per cent slower. A config's `quick_compile` says so.

    Returns:
      Whether the flags now say something about the fusions. False for a version of
      jaxlib that may not know the flag.
    """
    release = importlib.metadata.version("jaxlib").split(".")
    version = int(release[0]), int(release[1])
    for name, value, first, before in (_CORES, *(_QUICK if quick_compile else ())):
        flags = os.environ.get("XLA_FLAGS", "")
        if name not in flags and first <= version < before:
            os.environ["XLA_FLAGS"] = f"{flags} {name}={value}".strip()
    return _CORES[0] in os.environ.get("XLA_FLAGS", "")
