"""What users give as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return the dtype of the tensors that hold what arrays of this one do."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def uses(tensor: Tensor) -> int:
    """Return how many tensors use a tensor's memory: itself, its views, and those behind arrays of other libraries."""
    storage = tensor.untyped_storage()
    # It counts `storage`, too. Counting uses of Python's objects would miss views, whose memory is the same.
    return int(torch._C._storage_Use_Count(storage._cdata)) - 1


def as_tensor(given: Any, width: Any = None) -> Tensor:
    """Return what `torch.as_tensor` reads, and lists of tensors, tables, and arrays of any byte order and stride.

    Args:
        given: Numbers; memory is shared where it can be.
        width: Dtype for numbers of Python, which have none.

    Raises:
        TypeError, ValueError, RuntimeError: If it is something else.
    """
    if isinstance(given, Tensor):
        return given.to_dense() if given.is_sparse else given
    if hasattr(given, "__cuda_array_interface__"):
        return torch.as_tensor(given)
    if hasattr(given, "__dlpack__") and not isinstance(given, np.ndarray | np.generic):
        try:
            tensor: Tensor = torch.utils.dlpack.from_dlpack(given)
        except BufferError as error:
            raise ValueError(str(error)) from error
        return tensor
    if isinstance(given, list | tuple) and given and all(isinstance(one, Tensor) for one in given):
        return torch.stack(tuple(given))
    array = np.asarray(given, None if isinstance(given, np.ndarray) else width)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"expected numbers, got {type(given).__name__} of NumPy's dtype {array.dtype}")
    # torch takes neither other byte orders, nor strides that are negative or of part of a number, nor read-only memory.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    is_even = all(stride >= 0 and stride % native.itemsize == 0 for stride in native.strides)
    shareable = native.flags.writeable and is_even
    return torch.from_numpy(native if shareable else native.copy())
