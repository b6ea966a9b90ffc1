"""CUDA devices without a GPU: tensors that say they are on "cuda:63", are computed on the CPU, and must not be mixed.

Values are real, so a path for GPUs can be compared with the one for CPUs. Kernels, graphs, streams and speed are not
tested. Like a GPU, it refuses operations on tensors of two devices, and records what waits for it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections import Counter
from unittest import mock

import torch
from torch.nn.attention import bias
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from livecc_hf.modeling import attention

# No real ones: functions that cache tensors by device are not mixed up.
DEVICE, SECOND_DEVICE = torch.device("cuda:63"), torch.device("cuda:62")
# Operations that wait for the device, because the host needs a value or the result's size.
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "equal"}
_HALF = (torch.float16, torch.bfloat16)


class DeviceTensor(torch.Tensor):
    """A tensor on a device; `held` is the one on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held, device=DEVICE):
        # To C++ it is on "meta", because autograd has no threads for devices that do not exist.
        with torch.inference_mode(False):
            like = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
            tensor = torch.Tensor._make_subclass(cls, like, device_for_backend_keys=device)
        tensor.held, tensor.place = held, device
        return tensor

    device = property(lambda self: self.place)
    is_cuda, is_meta = True, False

    def __repr__(self, **_):
        return f"DeviceTensor({self.held!r})"

    def data_ptr(self):
        return self.held.data_ptr()

    def tolist(self):
        return self.to("cpu").tolist()

    def __deepcopy__(self, memo):
        return memo.setdefault(id(self), type(self)(self.held.clone(), self.place).requires_grad_(self.requires_grad))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {}, None)


class FakeCUDA(TorchDispatchMode):
    """Inside, "cuda" is a device.

    Attributes:
        waits: what waited for the device: a tuple of operation and place in the code, in order.
        copies: as `waits`, for copies from the host, which wait if the host's memory is pageable.
        attention: calls of attention kernels, by name.
    """

    # C++ does not initialise CUDA where this kind of mode is active.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self):
        super().__init__()
        self.waits, self.copies, self.attention = [], [], Counter()
        self.place = DEVICE  # of the last operation
        self._patches = contextlib.ExitStack()

    def __enter__(self):
        torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode does
        stack = self._patches = contextlib.ExitStack()
        generator = torch.Generator
        for owner, name, value in [
            (torch, "Generator", lambda device="cpu": generator("cpu")),
            (torch.cuda, "Event", lambda: mock.Mock(synchronize=lambda: self.waits.append(("event", _place())))),
            (torch.cuda, "current_stream", lambda device=None: None),
            (torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
            (attention, "causal_lower_right", _causal_lower_right),
            (attention, "can_use_flash_attention", lambda params: params.query.dtype in _HALF),
            (bias, "can_use_flash_attention", lambda params: params.query.dtype in _HALF),
            (bias, "can_use_efficient_attention", lambda params: not params.enable_gqa),
        ]:
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_Functions(self))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {}, self)

    @staticmethod
    def current():
        """Return the mode that is active; a new one where there is none, such as in other threads."""
        mode = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
        return FakeCUDA() if mode is None else mode


def _causal_lower_right(*sizes):
    with _disable_current_modes():  # a tensor that is made inside cannot be of a subclass
        return bias.causal_lower_right(*sizes)


class _Functions(TorchFunctionMode):
    """Pinned memory, and the choice of an attention kernel as PyTorch makes it without cuDNN."""

    def __init__(self, device):
        super().__init__()
        self._device = device

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if str(kwargs.get("device")) == "meta":  # transformers makes a model there before it reads the weights
            with _disable_current_modes():
                return function(*args, **kwargs)
        if function is torch.Tensor.pin_memory:
            return _pinned(args[0].clone())
        if function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) and "device" in kwargs:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is torch.Tensor.to and len(args) > 1 and isinstance(args[1], DeviceTensor):
            return args[0].to(args[1].device, args[1].dtype, *args[2:], **kwargs)
        if function is not scaled_dot_product_attention or not isinstance(args[0], DeviceTensor):
            return function(*args, **kwargs)
        names = "query", "key", "value", "attn_mask", "dropout_p", "is_causal"
        given = dict(zip(names, args)) | kwargs
        mask = given.get("attn_mask")
        if isinstance(mask, bias.CausalBias):
            return function(*args, **kwargs)
        if mask is None and given["query"].dtype in _HALF:
            kernel = "flash"
        elif given.get("enable_gqa"):
            kernel = "math"
        else:
            kernel = "efficient"
        self._device.attention[kernel] += 1
        masked = mask.expand(*given["query"].shape[:-1], given["key"].shape[-2]) if mask is not None else None
        return _attend(
            given["query"], given["key"], given["value"], masked, given.get("is_causal", False), given.get("scale")
        )[0]


def _attend(query, key, value, mask=None, is_causal=False, scale=None):
    """Return attention and its log-sum-exps; causal masks end at the last key."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    n_grouped = query.shape[1] // key.shape[1]
    keys, values = (held.repeat_interleave(n_grouped, 1).float() for held in (key, value))
    scores = query.float() @ keys.transpose(-1, -2) * scale
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask.float()
    if is_causal:
        n, n_keys = scores.shape[-2:]
        later = torch.ones(n, n_keys, dtype=torch.bool, device=scores.device).triu(n_keys - n + 1)
        scores = scores.masked_fill(later, -torch.inf)
    return (scores.softmax(-1) @ values).to(query.dtype), scores.logsumexp(-1)


def _flash_attention(query, key, value, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
    if query.dtype not in _HALF or not query.dtype == key.dtype == value.dtype:
        raise RuntimeError("FlashAttention only supports float16 and bfloat16, of one dtype")
    attended, sums = _attend(query, key, value, None, is_causal, scale)
    nothing = torch.zeros((), dtype=torch.long)
    return attended, sums, nothing, nothing, query.shape[2], key.shape[2], nothing, nothing, attended[:0]


def _efficient_attention(
    query, key, value, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, *, scale=None
):
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError("expected query, key and value of one dtype")
    if query.shape[1] != key.shape[1]:
        raise RuntimeError("memory-efficient attention takes as many key-value heads as query heads")
    if attn_bias is not None:
        if attn_bias.dtype != query.dtype or attn_bias.shape != (*query.shape[:3], key.shape[2]):
            raise RuntimeError(f"invalid bias: {attn_bias.dtype}, {tuple(attn_bias.shape)}")
        if attn_bias.stride(-1) != 1 or any(stride % 8 for stride in attn_bias.stride()[:3]):
            raise RuntimeError("attn_bias is not correctly aligned")
    attended, sums = _attend(query, key, value, attn_bias, is_causal, scale)
    rows = query.shape[2]
    nothing = torch.zeros((), dtype=torch.long)
    return attended, torch.nn.functional.pad(sums, (0, -rows % 32), value=torch.inf), nothing, nothing


def _efficient_attention_forward(
    query, key, value, attn_bias, cu_q, cu_k, max_q, max_k, dropout_p, mask_type, compute_sums=False, *, scale, **_
):
    """Tokens before heads; `mask_type` 2 is causal, up to the last key."""
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    attended, *others = _efficient_attention(query, key, value, attn_bias, True, 0.0, mask_type == 2, scale=scale)
    return attended.transpose(1, 2), *others, query.shape[2], key.shape[2]


_KERNELS = {
    "_efficient_attention_forward": ("efficient", _efficient_attention_forward),
    "_scaled_dot_product_flash_attention": ("flash", _flash_attention),
    "_scaled_dot_product_efficient_attention": ("efficient", _efficient_attention),
}


def _compute(function, args, kwargs, mode):
    """Run an operation as on the device."""
    if torch.is_inference_mode_enabled():  # which hands on operations that are made of others
        found = _decomposed(function, args, kwargs, mode)
        if found is not NotImplemented:
            return found
    name = function.overloadpacket.__name__
    inputs = list(_tensors((*args, *kwargs.values())))
    fakes = [tensor for tensor in inputs if isinstance(tensor, DeviceTensor)]
    wanted = kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted)
    if kwargs.get("pin_memory"):
        return _pinned(function(*args, **(kwargs | {"pin_memory": False})))
    if not fakes and (wanted is None or wanted.type == "cpu"):
        return function(*args, **kwargs)
    if mode is None:  # in another thread, or after the context
        mode = FakeCUDA.current()
    is_result_here = wanted is None or wanted.type != "cpu"
    if name == "_to_copy":
        _record_copy(mode, args[0], is_result_here, kwargs.get("non_blocking"))
    elif name == "copy_":
        _record_copy(mode, args[1], isinstance(args[0], DeviceTensor), len(args) > 2 and args[2], args[0])
    else:
        _check_devices(mode, name, args, inputs, bool(fakes))
        if name in _WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            mode.waits.append((name, _place()))
    wrappers = {id(tensor.held): tensor for tensor in fakes}
    if fakes:
        mode.place = fakes[0].place
    # C++ makes tensors that belong to others on "meta".
    place = mode.place if wanted is None or wanted.index is None else wanted
    if wanted is not None and wanted.type == "cuda" and name == "_to_copy" and fakes and fakes[0].place != place:
        wrappers = {}  # a copy that needs no other dtype is the tensor itself
    args, kwargs = _held(args), {name: _held(value) for name, value in kwargs.items()}
    if wanted is not None:
        kwargs["device"] = torch.device("cpu")
    kwargs.pop("non_blocking", None)
    if name in _KERNELS:
        kernel, function = _KERNELS[name]
        mode.attention[kernel] += 1
    found = function(*args, **kwargs)
    if "empty" in name and found.is_floating_point():
        found.fill_(torch.nan)  # so that memory that was never written shows
    if not is_result_here or (name == "copy_" and id(args[0]) not in wrappers):
        return found

    return _wrapped(found, wrappers, place)


def _decomposed(function, args, kwargs, mode):
    """Run an operation as the ones it is made of; return `NotImplemented` if it is not."""
    if mode is None or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is mode:
        return function.decompose(*args, **kwargs)
    TorchDispatchMode.__enter__(mode)  # not entered again as a whole: it is only paused in `__torch_dispatch__`
    try:
        return function.decompose(*args, **kwargs)
    finally:
        TorchDispatchMode.__exit__(mode, None, None, None)


def _tensors(items):
    """Yield the tensors in a sequence and in its sequences; faster than PyTorch's trees."""
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from _tensors(item)


def _held(item):
    if isinstance(item, DeviceTensor):
        return item.held
    return type(item)(map(_held, item)) if type(item) in (list, tuple) else item


def _wrapped(item, wrappers, place):
    if isinstance(item, torch.Tensor):
        known = wrappers.get(id(item))
        return DeviceTensor(item, place) if known is None else known
    return type(item)(_wrapped(part, wrappers, place) for part in item) if type(item) in (list, tuple) else item


def _pinned(tensor):
    tensor.is_fake_pinned = True
    return tensor


def _record_copy(mode, source, is_to_here, is_queued, target=None):
    if isinstance(source, DeviceTensor):
        if not is_to_here and not (is_queued and getattr(target, "is_fake_pinned", False)):
            mode.waits.append(("to the host", _place()))
    elif is_to_here and source.ndim + (source.numel() > 1):
        is_pinned = getattr(source, "is_fake_pinned", False)
        if not (is_queued and is_pinned):
            mode.waits.append(("from pageable memory", _place()))
        mode.copies.append(("from the host", _place()))


def _check_devices(mode, name, args, inputs, is_here):
    if name in ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"):
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                mode.waits.append((f"{name} with a mask", _place()))
            elif index is not None and not isinstance(index, DeviceTensor):
                mode.waits.append((f"{name} with indices on the host", _place()))
        inputs = [args[0], *(args[2:3] if "put" in name else ())]
    hosts = [tensor for tensor in inputs if not isinstance(tensor, DeviceTensor) and tensor.ndim]
    if is_here and hosts and any(isinstance(tensor, DeviceTensor) for tensor in inputs):
        shapes = [tuple(tensor.shape) for tensor in hosts]
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} got {shapes} on the CPU")
    if len({tensor.place for tensor in inputs if isinstance(tensor, DeviceTensor) and tensor.ndim}) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} got two")


def _place():
    """Return the innermost place in this package or transformers that is running; of a copy, what asks for it."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        is_ours = any(part in file for part in ("/modeling/", "/livecc_hf/", "/transformers/"))
        if is_ours and not file.endswith("/modeling/transfer.py"):
            return f"{'/'.join(file.split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def to_cuda(model, device_of=None):
    """Return a copy of a model whose weights are on the device, or where `device_of` places modules by their names.

    With `device_of`, modules move their inputs to their own device, as Accelerate's hooks do.
    """
    model = copy.deepcopy(model)
    for path, module in model.named_modules():
        place = DEVICE if device_of is None else device_of(path)
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(DeviceTensor(weight.data, place), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = DeviceTensor(buffer, place)
        if device_of is not None and (module._parameters or module._buffers or ".layers." in path):
            module.register_forward_pre_hook(functools.partial(_move_inputs, place), with_kwargs=True)
    return model


def _move_inputs(place, module, args, kwargs):
    def moved(item):
        if isinstance(item, torch.Tensor):
            return item.to(place)
        return tuple(map(moved, item)) if isinstance(item, tuple) else item

    return moved(args), {name: moved(value) for name, value in kwargs.items()}
