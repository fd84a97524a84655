"""Settings that every test shares."""

import gc
import os
import signal

import hypothesis
import jax
import pytest

# Times say how busy the machine is.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
if cache := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def pytest_make_parametrize_id(val, argname):
    """Names bytes by their length: archives hold the time of day, names must not."""
    return f"{argname} of {len(val)}" if isinstance(val, bytes) else None


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_file():
    """Compiles quickly, and lets go of a file's programs at its end.

    Most of the time here is compiling programs that run for microseconds; a worker
    that kept them all would come to hold gigabytes.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    # Tracing makes many objects that live on: looking through them again and again
    # takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(100_000)
    yield
    gc.unfreeze()
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def interruptible():
    """Lets child processes get SIGINT, which a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["eager", "jit"])
def compiled(request):
    """Gives each test the function as it is, then under `jax.jit`."""
    return jax.jit if request.param == "jit" else lambda f: f
