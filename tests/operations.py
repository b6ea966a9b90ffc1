"""Recording of the operations that run on a device."""

from torch.utils._python_dispatch import TorchDispatchMode

# Operations that only make views or allocate memory.
_WITHOUT_WORK = {
    *("alias", "as_strided", "detach", "expand", "narrow", "permute", "select", "slice", "split", "squeeze", "t"),
    *("transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "empty", "empty_like", "lift_fresh", "new_empty"),
}


class Operations(TorchDispatchMode):
    """Records the names of operations that run on a device, and can interrupt the process at one of them.

    Attributes:
        names: of those that were run inside, in order.

    Args:
        last: the number of the last operation before `KeyboardInterrupt`; `None`: there is none.
    """

    def __init__(self, last=None):
        super().__init__()
        self.names, self._last = [], last

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        result = function(*args, **(kwargs or {}))
        if name not in _WITHOUT_WORK:
            self.names.append(name)
        if len(self.names) == self._last:
            raise KeyboardInterrupt
        return result
