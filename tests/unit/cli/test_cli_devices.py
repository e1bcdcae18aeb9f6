"""Devices are checked without importing PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wanspec.cli import devices
from wanspec.cli.devices import check_device
from wanspec.errors import ConfigError


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", "CPU"])
def test_unknown_names_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=r"--device: .* use cpu, cuda or cuda:N"):
        check_device("--device", device)


@pytest.mark.parametrize(
    ("cuda", "gpus", "device", "said"),
    [
        ("", 8, "cuda", "is the CPU build"),
        ("12.8", 0, "cuda", "no NVIDIA GPU"),
        (None, 2, "cuda:2", "cuda:0 to cuda:1"),
    ],
)
def test_a_device_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, gpus: int, device: str, said: str
) -> None:
    monkeypatch.setattr(devices, "torch_cuda", lambda: cuda)
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    with pytest.raises(ConfigError, match=said):
        check_device("--worker-device", device)
    check_device("--device", "cpu")


def test_a_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch_cuda", lambda: "12.8")
    monkeypatch.setattr(devices, "gpu_count", lambda: 2)
    for device in ("cuda", "cuda:0", "cuda:1"):
        check_device("--device", device)


def test_the_build_is_read_as_pytorch_says_it() -> None:
    code = (
        "import sys; from wanspec.cli.devices import torch_cuda; told = torch_cuda(); "
        "assert 'torch' not in sys.modules; "
        "import torch; print(told == (torch.version.cuda or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "True"


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DRIVER", "libnone.so")
    assert devices.gpu_count() == 0
