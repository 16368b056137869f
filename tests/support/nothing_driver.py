"""A driver that does nothing, below Triton's own launchers: what launches cost the host, and what they pass on.

`install` compiles a library with the driver's name and functions, of which those that launch write down what they got.
Triton then compiles kernels as for a GPU, compiles and calls its real launchers, and takes tensors on the host for the
device's. Results are what the memory was before.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime import driver

from operant_gpu.backends.triton import launching

# Those whose results Triton looks at; all others say that all is well.
_FUNCTIONS = r"""
#include <stdint.h>
#include <string.h>
typedef struct { unsigned grid[3], block[3], shared; void *stream; } Config;
long wanted;
unsigned grid[3], block[3];
uint64_t values[1024];
static int note(const unsigned *g, const unsigned *b, void **parameters) {
  memcpy(grid, g, sizeof grid);
  memcpy(block, b, sizeof block);
  for (long i = 0; i < wanted; i++) memcpy(values + i, parameters[i], 8);
  return 0;
}
int cuLaunchKernelEx(const Config *c, void *f, void **p, void **e) { return note(c->grid, c->block, p); }
int cuLaunchKernel(void *f, unsigned x, unsigned y, unsigned z, unsigned a, unsigned b, unsigned c, unsigned shared,
                   void *stream, void **p, void **e) {
  return note((unsigned[]){x, y, z}, (unsigned[]){a, b, c}, p);
}
int cuPointerGetAttribute(uint64_t *data, int attribute, uint64_t pointer) { *data = pointer; return 0; }
int cuFuncGetAttribute(int *value, int attribute, void *f) { *value = attribute == 0 ? 1024 : 0; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 232448; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)16; return 0; }
int cuModuleLoadData(void **module, const void *image) { *module = (void *)16; return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)16; return 0; }
"""
# A folder that goes when the process ends.
_folder = tempfile.TemporaryDirectory()


class Nothing(nvidia.CudaDriver):  # type: ignore[misc]
    """Triton's driver for a machine with one GPU that does nothing."""

    def __init__(self, capability: int, library: ctypes.CDLL) -> None:
        super().__init__()
        self._capability, self._library = capability, library
        # PyTorch without CUDA has neither: functions of the same kind, one of Python that asks whether there is a
        # device, one of C.
        self.get_current_device: Callable[[], int] = current_device
        self.get_current_stream: Callable[[int], int] = abs

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def want(self, parameters: int) -> None:
        """Have launches write down so many of their first parameters."""
        ctypes.c_long.in_dll(self._library, "wanted").value = parameters

    def values(self, count: int) -> list[int]:
        """Return the first parameters of the last launch, eight bytes each."""
        return list((ctypes.c_uint64 * count).in_dll(self._library, "values"))

    def shape(self) -> tuple[int, ...]:
        """Return the grid of the last launch, and the threads of its programs."""
        return tuple(axis for name in ("grid", "block") for axis in (ctypes.c_uint * 3).in_dll(self._library, name))


def current_device() -> int:
    """Stand for `torch.cuda.current_device`."""
    return abs(0) if torch.cuda.is_available is not None else -1


def install(capability: int = 90) -> Nothing:
    """Make it Triton's driver, and let `backend="triton"` run with `device="cpu"`."""
    path = Path(_folder.name) / "libcuda.so.1"
    own = Path(nvidia.__file__)
    named = set(re.findall(r"\bcu[A-Z]\w+", own.read_text() + own.with_name("driver.c").read_text()))
    others = [f"int {name}(void) {{ return 0; }}" for name in sorted(named) if f"{name}(" not in _FUNCTIONS]
    command = ["gcc", "-shared", "-fPIC", "-O2", f"-Wl,-soname,{path.name}", "-o", str(path), "-x", "c", "-"]
    subprocess.run(command, check=True, input=_FUNCTIONS + "\n".join(others), text=True)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    knobs.nvidia.libcuda_path = str(path.parent)
    found = Nothing(capability, library)
    driver.set_active(found)
    place: Any = torch.cuda
    place.device, place.current_device = lambda device: contextlib.nullcontext(), current_device
    launching.takes_host = True
    return found
