"""The flags for CPUs: where they are known, once, and beside the user's own."""

import importlib.metadata
import os

import pytest

from jaxrobust import tune_cpu

FLAG = "--xla_cpu_experimental_ynn_fusion_type="


@pytest.mark.parametrize(
    ("version", "before", "after", "known"),
    [
        ("0.10.2", "", FLAG, True),
        ("0.12.0.1", "--xla_a=1", f"--xla_a=1 {FLAG}", True),
        ("0.11.2", f"{FLAG}X", f"{FLAG}X", True),
        ("0.13.0", "--xla_a=1", "--xla_a=1", False),
        ("0.9.9", "", "", False),
        ("1.10.0", "", "", False),
    ],
)
def test_only_versions_that_know_the_flag_get_it(
    monkeypatch, version, before, after, known
):
    monkeypatch.setattr(importlib.metadata, "version", {"jaxlib": version}.get)
    monkeypatch.setenv("XLA_FLAGS", before)
    for _ in range(2):
        assert tune_cpu() == known
        assert os.environ["XLA_FLAGS"] == after


@pytest.mark.parametrize(
    ("version", "more"),
    [
        ("0.10.2", " --xla_cpu_use_fusion_emitters=false"),
        ("0.12.0.1", ""),
    ],
)
def test_flags_to_compile_quickly(monkeypatch, version, more):
    monkeypatch.setattr(importlib.metadata, "version", {"jaxlib": version}.get)
    monkeypatch.setenv("XLA_FLAGS", "")
    split = "--xla_cpu_parallel_codegen_split_count"
    for _ in range(2):
        assert tune_cpu(quick_compile=True)
        assert os.environ["XLA_FLAGS"] == f"{FLAG}{more} {split}=1"
    monkeypatch.setenv("XLA_FLAGS", f"{split}=8 {FLAG}")
    tune_cpu(quick_compile=True)
    assert os.environ["XLA_FLAGS"] == f"{split}=8 {FLAG}{more}"
    monkeypatch.setattr(importlib.metadata, "version", {"jaxlib": "9.0"}.get)
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    assert not tune_cpu(quick_compile=True)
    assert os.environ["XLA_FLAGS"] == "--xla_a=1"
