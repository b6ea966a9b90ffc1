"""Recognise failures of memory and of accelerators, by the errors of the libraries that report them."""

from __future__ import annotations

_CPU_ALLOCATOR = "can't allocate memory"  # PyTorch on a CPU raises a plain RuntimeError with these words


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of this machine or of an accelerator ran out."""
    if isinstance(error, MemoryError) or "OutOfMemoryError" in _class_names(error):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)


def is_accelerator_failure(error: BaseException) -> bool:
    """Return whether the accelerator itself failed; running out of memory does not count."""
    return "AcceleratorError" in _class_names(error) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def _class_names(error: BaseException) -> set[str]:
    """Return the names of an error's classes: PyTorch may not be installed, and need not be imported."""
    return {cls.__name__ for cls in type(error).__mro__}
