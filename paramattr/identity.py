"""The identity of a function or object: a digest of all that it computes with.

A run is resumed only where it would have gone the same way. Of an objective this means its code,
what that code reads (defaults, closures, globals, attributes), and what those read in turn. The
walk goes through all of it in an order that does not depend on the process: no address, no hash
and no order of a set goes in. What it cannot see into has no identity, since two different things
would look alike.
"""

from __future__ import annotations

import builtins
import copyreg
import dis
import functools
import hashlib
import importlib.util
import logging
import random
import sys
import sysconfig
import types
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paramattr.errors import CheckpointError, an
from paramattr.files.reading import content


class Unseen(Exception):
    """Something whose state cannot be seen: what it is, and where it was found."""


def identity(value: Any, what: str) -> str:
    """Digest all of a value's state; equal in every process, and another for any other state.

    Functions are known by their code and all that it reads; objects by their class and attributes;
    tensors and arrays by their content; Python's own, torch's and numpy's by name; classes of other
    installed packages by name and version.

    Args:
        value: a function, an object, or plain values.
        what: it is, for the error.

    Raises:
        CheckpointError: naming what cannot be seen into, such as a file, a lock or a generator.

    >>> squares = [lambda x, power=power: x**power for power in (2, 2, 3)]
    >>> one, same, other = (identity(square, "the square") for square in squares)
    >>> one == same, one == other
    (True, False)
    """
    try:
        return _Walk(is_strict=True).over(value, what)
    except Unseen as unseen:
        found, where = unseen.args
        raise CheckpointError(
            f"{what} holds {found} ({where}), whose state cannot be seen, so a checkpoint could "
            "not tell it from another: expected plain values, tensors and functions of them; hold "
            "the values that are read from it, or leave checkpoint out"
        ) from None


def likeness(value: Any) -> str:
    """Digest what can be seen of a value's state; what cannot be seen counts by its type."""
    return _Walk(is_strict=False).over(value, "")


def stamped(what: str, value: Any) -> dict[str, str]:
    """Give what a progress file says of a value: its name, and the identity of its state.

    Raises:
        CheckpointError: as `identity`.
    """
    return {
        what: _name_of(value),
        f"state of the {what}": identity(value, f"the {what}")[:32],
    }


def _name_of(value: Any) -> str:
    while isinstance(value, functools.partial):
        value = value.func
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_OF_TORCH = (torch.dtype, torch.layout, torch.memory_format, torch.Size)
_OF_C = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_BLIND = {"eval", "exec", "globals", "__import__"}
"""Builtin functions that read what no code names."""
_OF_CLASSES = {
    "__abstractmethods__",
    "__annotate__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__dataclass_fields__",
    "__dataclass_params__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__match_args__",
    "__module__",
    "__orig_bases__",
    "__parameters__",
    "__protocol_attrs__",
    "__slotnames__",
    "__slots__",
    "__static_attributes__",
    "__weakref__",
    "_abc_impl",
    "_backward_cls",
}
"""Entries of a class that nothing is computed with, or that Python adds while a program runs."""


class _Walk:
    """One pass over everything that can be reached from a value, the nearest first.

    What may be reached twice has a number, by which it is referred to; so cycles end.

    Args:
        is_strict: whether what cannot be seen is an error.
        within: the sets that contain the value.
    """

    def __init__(self, *, is_strict: bool, within: frozenset[int] = frozenset()) -> None:
        self.is_strict, self.within = is_strict, within
        self.digest = hashlib.sha256()
        self.numbers: dict[int, int] = {}
        self.waiting: deque[tuple[Any, str]] = deque()
        self.kept: list[Any] = []  # so that no number is given twice for one address
        self.modules: set[tuple[str, tuple[str, ...]]] = set()

    def over(self, value: Any, where: str) -> str:
        self.refer(value, where)
        while self.waiting:
            next_value, place = self.waiting.popleft()
            try:
                self.expand(next_value, place)
            except Unseen as unseen:
                if self.is_strict:
                    raise
                self.word("unseen", unseen.args[0])
            self.word("end")
        return self.digest.hexdigest()

    def word(self, *parts: object) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            self.digest.update(f"{len(data)}:".encode() + data)

    def refer(self, value: Any, where: str) -> None:
        """Write a plain value, or the number of anything else, which is then gone through later."""
        kind = type(value)
        if kind in _PLAIN:
            text = hex(value) if kind is int else value if kind in (str, bytes) else repr(value)
            self.word(kind.__name__, text)
        elif kind is tuple:
            self.word("tuple", len(value))
            for number, part in enumerate(value):
                self.refer(part, f"{where}, item {number}")
        elif isinstance(value, _OF_TORCH):
            self.word("torch", repr(value))
        elif kind is torch.device:
            self.word("device", value.type)  # the number is the machine's concern
        else:
            if id(value) not in self.numbers:
                self.numbers[id(value)] = len(self.kept)
                self.kept.append(value)
                self.waiting.append((value, where))
            self.word("number", self.numbers[id(value)])

    def refer_all(self, values: Iterable[tuple[object, Any]], where: str) -> None:
        held = list(values)
        self.word(len(held))
        for name, value in held:
            self.refer(name, where)
            self.refer(value, f"{where} {name!r}" if isinstance(name, str) else where)

    def expand(self, value: Any, where: str) -> None:
        for kinds, method in _KINDS:
            if isinstance(value, kinds):
                method(self, value, where)
                return
        self.instance(value, where)

    # Code

    def function(self, function: Any, where: str) -> None:
        whole = getattr(function, "_torchdynamo_orig_callable", None)  # torch.compile's wrapper
        if function.__code__.co_filename.startswith("<@beartype") or (
            function.__globals__.get("__name__") == "jaxtyping._decorator"
        ):  # these look at types, in code that is written anew in each process
            whole = getattr(function, "__wrapped__", None)
        if whole is not None:
            self.refer(whole, where)
            return
        self.word("function", _main(function.__module__), function.__qualname__)
        is_own = _origin(function.__globals__.get("__name__")) == "own"
        if not is_own and self.is_installed(function):
            return
        self.code(function.__code__, where)
        self.refer(function.__defaults__, f"{where}, its defaults")
        self.refer_all((function.__kwdefaults__ or {}).items(), f"{where}, its default")
        names = _attributes(function.__code__)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in cells:
            self.word(name)
            try:
                held = cell.cell_contents
            except ValueError:
                self.word("empty")
                continue
            self.held(held, names, f"{where}, its variable {name!r}")
        if is_own:  # what a package makes, such as a decorator, goes by what it was given
            self.globals(function, names, where)
        self.refer_all(vars(function).items(), f"{where}, its attribute")

    def is_installed(self, value: Any) -> bool:
        """Say whether a function or class is one of an installed package, and write its version."""
        origin = _origin(value.__module__)
        if origin == "own" or not _is_found(value):
            return False
        if origin == "installed":
            self.word(_version(value.__module__))
        return True

    def globals(self, function: Any, names: tuple[str, ...], where: str) -> None:
        for name, is_import in _reads(function):
            self.word(name)
            if is_import:
                self.imported(name, names, where)
            elif name in function.__globals__:
                self.held(function.__globals__[name], names, f"{where}, global {name!r}")
            elif name in _BLIND:
                raise Unseen(f"a call of {name}", where)
            elif not hasattr(builtins, name):
                self.word("missing")

    def held(self, value: Any, names: tuple[str, ...], where: str) -> None:
        """Write what code reads: of a module, what the code may read of it by name."""
        if not isinstance(value, types.ModuleType):
            self.refer(value, where)
            return
        self.word("module", _main(value.__name__))
        origin = _origin(value.__name__)
        if origin == "library" or (value.__name__, names) in self.modules:
            return
        self.modules.add((value.__name__, names))
        for name in names:
            if name in vars(value):
                self.word(name)
                self.held(vars(value)[name], names, f"{where}.{name}")

    def imported(self, name: str, names: tuple[str, ...], where: str) -> None:
        """Write what is imported inside a function."""
        if _origin(name) != "own":
            return
        if name in sys.modules:
            for one in dict.fromkeys((name.partition(".")[0], name)):
                self.held(sys.modules[one], names, f"{where}, import of {one!r}")
        else:
            raise Unseen(f"an import of {name!r} inside a function, not made yet", where)

    def code(self, code: types.CodeType, where: str) -> None:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self.word("code", code.co_code, getattr(code, "co_exceptiontable", b""), *counts)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        for number, constants in enumerate((*names, code.co_consts)):
            self.word(number, len(constants))
            for constant in constants:
                if isinstance(constant, types.CodeType):
                    self.code(constant, where)
                else:
                    self.refer(constant, where)

    def of_c(self, function: Any, where: str) -> None:
        self.word("C", getattr(function, "__module__", ""), function.__qualname__)
        owner = getattr(function, "__self__", None)
        if not isinstance(owner, types.ModuleType | type | None):
            self.refer(owner, f"{where}, its object")

    def method(self, method: types.MethodType, where: str) -> None:
        self.word("method")
        self.refer(method.__self__, f"{where}, its object")
        self.refer(method.__func__, where)

    def module(self, module: types.ModuleType, where: str) -> None:
        if _origin(module.__name__) == "own":
            raise Unseen(f"the module {module.__name__!r} as a value", where)
        self.word("module", module.__name__, _version(module.__name__))

    def class_(self, cls: type, where: str) -> None:
        self.word("class", _main(cls.__module__), cls.__qualname__)
        if self.is_installed(cls):
            return
        self.refer((type(cls), *cls.__bases__), where)
        if issubclass(cls, Enum):
            members = cls.__members__.items()
            self.refer_all(((name, m._value_) for name, m in members), f"{where}, member")
        for name, value in vars(cls).items():
            is_enums = issubclass(cls, Enum) and not isinstance(value, types.FunctionType)
            if name not in _OF_CLASSES and not isinstance(value, _SLOTS) and not is_enums:
                self.word(name)
                self.refer(value, f"{where}, {cls.__name__}.{name}")

    def wrapped(self, value: Any, where: str) -> None:
        """Write what wraps functions in a class, or keeps their results."""
        self.word(type(value).__name__)
        parts = ("fget", "fset", "fdel", "func", "__func__", "__wrapped__")
        self.refer_all(
            ((p, getattr(value, p)) for p in parts if hasattr(value, p)), f"{where}, its"
        )

    # Data

    def tensor(self, value: Tensor, where: str) -> None:
        self.word("tensor")
        if value.device.type == "meta":
            self.word(tuple(value.shape), value.dtype)
            return
        if hasattr(value, "to_local"):
            raise Unseen("a tensor that is sharded over processes", where)
        try:
            with torch.no_grad():
                dense = value.detach() if value.layout == torch.strided else value.to_dense()
                self.word(content(dense.resolve_conj().resolve_neg()))
        except (RuntimeError, NotImplementedError) as error:
            raise Unseen(_a(value), where) from error
        if type(value) not in (Tensor, nn.Parameter):
            self.refer(type(value), where)
            self.attributes(value, where)

    def array(self, value: Any, where: str) -> None:
        self.word("array", repr(value.dtype), value.shape)
        if value.dtype.hasobject:
            self.refer(value.tolist(), where)
        else:
            self.word(value.tobytes())
        if type(value) not in (np.ndarray, np.memmap) and isinstance(value, np.ndarray):
            self.refer(type(value), where)
            self.attributes(value, where)

    def generator(self, value: Any, where: str) -> None:
        self.word(type(value).__name__)
        if isinstance(value, np.random.Generator):
            self.refer(value.bit_generator.state, where)
        elif isinstance(value, random.SystemRandom):
            raise Unseen(_a(value), where)
        else:
            self.refer(
                value.getstate() if isinstance(value, random.Random) else value.get_state(), where
            )

    def set_(self, value: Any, where: str) -> None:
        self.word("set", len(value))
        if id(value) in self.within:
            return
        within = self.within | {id(value)}
        parts = (_Walk(is_strict=self.is_strict, within=within).over(v, where) for v in value)
        self.word(*sorted(parts))
        self.more_than((set, frozenset), value, where)

    def sequence(self, value: Any, where: str) -> None:
        self.word("sequence", len(value))
        plain = list if isinstance(value, list) else tuple
        for number, part in enumerate(plain.__iter__(value)):
            self.refer(part, f"{where}, item {number}")
        self.more_than((list,), value, where)

    def mapping(self, value: Any, where: str) -> None:
        self.word("mapping", len(value))
        self.refer_all(
            dict.items(value) if isinstance(value, dict) else value.items(), f"{where}, entry"
        )
        self.more_than((dict, types.MappingProxyType), value, where)

    def scalar(self, value: Any, where: str) -> None:
        """Write an object that is a number or a text, and something more."""
        base = next(kind for kind in _PLAIN if isinstance(value, kind))
        self.word(base.__name__, base.__repr__(value))  # type: ignore[call-arg]
        self.more_than((), value, where)

    def more_than(self, plain: tuple[type, ...], value: Any, where: str) -> None:
        self.word(type(value).__name__ if type(value) in plain else "more")
        if type(value) not in plain:
            self.refer(type(value), where)
            self.attributes(value, where)

    def enum(self, value: Enum, where: str) -> None:
        self.word("member", value.name)
        self.refer(value._value_, where)
        self.refer(type(value), where)

    # Objects

    def torch_module(self, module: nn.Module, where: str) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            raise Unseen(_a(module), where)
        whole = vars(module).get("_modules", {}).get("_orig_mod")
        if whole is not None:
            self.refer(whole, where)  # what torch.compile wraps
            return
        self.refer(type(module), where)
        for name, value in vars(module).items():
            if "state_dict" in name or name == "_compiled_call_impl":
                continue
            self.word(name)
            if "_hooks" in name and isinstance(value, Mapping):  # numbered by a global count
                self.refer(list(value.values()), f"{where}, {name!r}")
            else:
                self.refer(value, f"{where}, {name!r}")

    def instance(self, value: Any, where: str) -> None:
        self.word("object")
        self.refer(type(value), where)
        if not _hides(type(value)):
            self.attributes(value, where)
            return
        reduced = _reduced(value, where)
        if isinstance(reduced, str):
            self.word("global", getattr(value, "__module__", ""), reduced)
            return
        for part in reduced:
            parts = list(part) if isinstance(part, Iterator) else part
            self.refer(parts, where)

    def attributes(self, value: Any, where: str) -> None:
        held = getattr(value, "__dict__", {}).items()
        if _origin(type(value).__module__) != "own":  # transformers keeps hashes of texts
            held = [(n, v) for n, v in held if not (str(n).endswith("hash") and type(v) is int)]
        self.refer_all(held, f"{where}, its attribute")
        for name, slot in _members(type(value)):
            self.word(name)
            try:
                held = slot.__get__(value)
            except AttributeError:
                self.word("unset")
                continue
            self.refer(held, f"{where}, its attribute {name!r}")


_Any = Any
_KINDS: tuple[tuple[_Any, _Any], ...] = (
    (types.FunctionType, _Walk.function),
    (types.MethodType, _Walk.method),
    (_OF_C, _Walk.of_c),
    (types.ModuleType, _Walk.module),
    (type, _Walk.class_),
    (types.CodeType, _Walk.code),
    (
        (property, staticmethod, classmethod, functools.cached_property, type(functools.cache(id))),
        _Walk.wrapped,
    ),
    (Tensor, _Walk.tensor),
    ((np.ndarray, np.generic), _Walk.array),
    (
        (torch.Generator, random.Random, np.random.Generator, np.random.RandomState),
        _Walk.generator,
    ),
    (nn.Module, _Walk.torch_module),
    (Enum, _Walk.enum),
    ((set, frozenset), _Walk.set_),
    ((list, tuple), _Walk.sequence),
    ((dict, types.MappingProxyType), _Walk.mapping),
    ((int, float, complex, str, bytes), _Walk.scalar),
    (PurePath, lambda walk, value, where: walk.word("path", value)),
    (logging.Logger, lambda walk, value, where: walk.word("logger", value.name)),
    (weakref.ReferenceType, lambda walk, value, where: walk.refer(value(), where)),
)
"""Kinds of values, the first that fits, and how each is gone through."""


def _hides(cls: type) -> bool:
    """Say whether objects of a class hold more than attributes: memory that only C code reads."""
    word = tuple.__itemsize__
    visible = (
        object.__basicsize__ + word * (cls.__dictoffset__ > 0) + word * (cls.__weakrefoffset__ > 0)
    )
    visible += word * len(_members(cls))
    return bool(cls.__itemsize__) or cls.__basicsize__ > visible


def _members(cls: type) -> list[tuple[str, Any]]:
    """List what `__slots__` made. Those of C code named `__so__` are addresses."""
    return [
        (name, slot)
        for one in cls.__mro__
        for name, slot in vars(one).items()
        if isinstance(slot, types.MemberDescriptorType) and not name.endswith("__")
    ]


def _reduced(value: Any, where: str) -> Any:
    """Take an object apart as `pickle` does, which refuses what has state of its own in C."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            registered = copyreg.dispatch_table.get(type(value))
            return registered(value) if registered else value.__reduce_ex__(4)
    except Exception as error:  # whatever a class thinks of
        raise Unseen(_a(value), where) from error


def _a(value: Any) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return an(kind.removeprefix("builtins."))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _attributes(code: types.CodeType) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in _codes(code) for name in one.co_names))


def _reads(function: Any) -> list[tuple[str, bool]]:
    """List the globals that a function's code reads, and the modules that it imports."""
    found = dict[tuple[str, bool], None]()
    for code in _codes(function.__code__):
        before: list[Any] = []
        for instruction in dis.get_instructions(code):
            if instruction.opname in _READS:
                found[instruction.argval, False] = None
            elif instruction.opname == "IMPORT_NAME":
                package = function.__globals__.get("__package__") or ""
                dotted = "." * before[-2].argval + instruction.argval
                found[importlib.util.resolve_name(dotted, package), True] = None
            if instruction.opname != "EXTENDED_ARG":
                before = [*before[-1:], instruction]
    return list(found)


def _origin(module: str | None) -> str:
    """Say whose a module is: Python's, torch's and numpy's, another installed package's, or own."""
    top = (module or "").partition(".")[0]
    if top in ("torch", "numpy"):
        return "library"
    found = sys.modules.get(module or "")
    try:
        spec = getattr(found, "__spec__", None) or importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    file = getattr(found, "__file__", None) or getattr(spec, "origin", None)
    if file in ("built-in", "frozen"):
        return "library"
    if file is None or top in ("__main__", "__mp_main__"):
        return "own"
    if {"site-packages", "dist-packages"} & set(Path(file).parts):
        return "installed"
    is_pythons = Path(file).is_relative_to(sysconfig.get_path("stdlib"))
    return "library" if is_pythons else "own"


def _is_found(value: Any) -> bool:
    """Say whether a function or class is what its name leads to."""
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value


def _version(module: str) -> str:
    """Give the version of a module's package, and the digest of its own code."""
    found = sys.modules[module]
    version = getattr(sys.modules.get(module.partition(".")[0]), "__version__", "")
    file = Path(getattr(found, "__file__", None) or "")
    return f"{version} {_digest(file) if file.is_file() else ''}"


@functools.lru_cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _main(module: str | None) -> str:
    return "__main__" if module == "__mp_main__" else str(module)
