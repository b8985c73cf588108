"""Packages of other runtimes, which only some exports and backends need."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import InputError


def import_package(name: str) -> ModuleType:
    """
    A package that only some formats and backends need.

    Raises:
        InputError: when it is not installed.
    """
    # openvino and nncf report all they do to Google unless this package is missing; clinics would not agree
    sys.modules["openvino_telemetry"] = None
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name}: expected this package to be installed, found none; pip install {name}.") from error


@cache
def open_core() -> Any:
    """
    OpenVINO's entry, one for the whole process.

    Every `Core` that compiles moves the signals of the main thread to a stack of its own, and when it is deleted to the
    one before, which another may have freed (OpenVINO 2026.4.1): the next signal then kills Python.
    """
    openvino = import_package("openvino")
    # the first look at a tensor's numbers finds numpy, behind a guard that is waited for with Python's lock in hand:
    # of two threads that are the first at once, each waits for the other for ever
    openvino.Tensor(np.zeros(1, np.float32)).data  # noqa: B018
    return openvino.Core()


def has_bf16() -> bool:
    """Whether this CPU computes in bfloat16; elsewhere OpenVINO emulates it, slower than float32."""
    return "BF16" in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def describe_cpu() -> str:
    """What OpenVINO calls this CPU, and whether it computes in bfloat16."""
    name = open_core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"{name} with{'' if has_bf16() else 'out'} bf16"


@cache
def has_cuda() -> bool:
    """Whether PyTorch is here and has a GPU; it takes seconds to import, and is asked only where there is a driver."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        if not os.path.exists("/dev/kfd"):  # AMD's
            return False
    return find_spec("torch") is not None and importlib.import_module("torch").cuda.is_available()


def choose_cpu_backend() -> str:
    """OpenVINO where it is installed, else PyTorch, else ONNX Runtime."""
    return next((name for name in ("openvino", "torch", "onnxruntime") if find_spec(name)), "torch")
