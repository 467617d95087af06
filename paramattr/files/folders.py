"""Folders of models: what they hold of their own, their weights, settings and sizes."""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from paramattr.errors import CheckpointError, ModelError, ParamattrError, an, one_line
from paramattr.files.reading import check_archive, check_held, load_torch_file, parsed_file

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
"""Names of files that transformers and PEFT read weights from."""
OTHER_FORMS = (
    ".git",
    ".cache",
    "checkpoint-*",
    "consolidated*",
    "openvino*",
    *("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.gguf", "*.ot", "*.tflite"),
)
"""What holds the model in a form that is neither read nor edited, or no part of it."""


@dataclass(frozen=True)
class Listing:
    """What lies in a folder and below it.

    Attributes:
        files: names, from the folder on, to the bytes of each file.
        other_forms: names of what is passed over, such as `tf_model.h5`.
        linked: names of links to folders inside the folder, which would be met twice, or for ever.
    """

    files: dict[str, int]
    other_forms: tuple[str, ...]
    linked: tuple[str, ...]


def listing(folder: Path) -> Listing:
    """List a folder; a link to a file counts as that file, if it lies in the folder too.

    So does one that leads from a snapshot in the cache of the Hugging Face hub to the blobs beside
    the snapshots, which is how every model of the hub lies there.

    Raises:
        CheckpointError: naming what leads out of the folder or is no file; or if the folder cannot
            be listed.
    """
    files, other_forms, linked = dict[str, int](), list[str](), list[str]()
    own = Path(os.path.realpath(folder))
    try:
        for place, folders, names in os.walk(folder, onerror=_raised):
            for name in sorted([*folders, *names]):
                path = Path(place, name)
                shown = str(path.relative_to(folder))
                if any(fnmatch(name, form) for form in OTHER_FORMS):
                    other_forms += [] if name.startswith(".") else [name]
                elif path.is_symlink() and _target(path, folder, own).is_dir():
                    linked.append(shown)
                elif not path.is_dir():
                    files[shown] = _size(path)
            folders[:] = [
                name for name in sorted(folders) if not any(fnmatch(name, f) for f in OTHER_FORMS)
            ]
    except OSError as error:
        raise CheckpointError(
            f"folder {folder} cannot be listed ({error}): expected a folder that you can read"
        ) from None
    return Listing(files, tuple(sorted(other_forms)), tuple(sorted(linked)))


def weight_files(folder: Path) -> list[Path]:
    """List the files of a folder that hold its model's weights.

    Raises:
        CheckpointError: as `listing` does.
    """
    return [
        folder / name
        for name in sorted(listing(folder).files)
        if "/" not in name and any(fnmatch(name, own) for own in WEIGHTS)
    ]


def _target(link: Path, folder: Path, own: Path) -> Path:
    """Follow a link to where it ends, inside the folder."""
    try:
        target = Path(os.path.realpath(link, strict=True))
        places = [own]
        if own.parent.name == "snapshots" and own.parents[1].name.startswith("models--"):
            places.append(own.parents[1] / "blobs")
        if any(place in (target, *target.parents) for place in places):
            return target
        where = f"leads to {target}"
    except OSError:  # it is one of a circle of links, too
        where = f"leads to {link.readlink()}, which is not there"
    raise CheckpointError(
        f"{str(link.relative_to(folder))!r} in folder {folder} is a link that {where}: expected a "
        "file, or a link to one inside the folder or from a snapshot of the hub's cache to its "
        "blobs; if you trust it, make a copy without links (cp -rL) and give that"
    )


def _size(path: Path) -> int:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise CheckpointError(
            f"{path} is neither a file nor a folder, but a device, a pipe or a socket: expected "
            "files alone; remove it from the folder"
        )
    return about.st_size


def _raised(error: OSError) -> None:
    raise error


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: that holds it.
        name: that it goes by there.
        shape: of it.
        is_floating: whether it holds floating-point numbers, in any precision.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    is_floating: bool

    def read(self) -> Tensor:
        """Read its values.

        Raises:
            CheckpointError: if the file cannot be read.
        """
        return _tensors(self.file, [self.name])[self.name]


def weights_of(folder: Path) -> dict[str, list[Stored]]:
    """List the tensors of a folder's files by name; several files may hold one of the same name.

    Raises:
        CheckpointError: if a file is not whole, holds pickled code, or there is none.
    """
    found: dict[str, list[Stored]] = {}
    for file in weight_files(folder):
        for name, shape, is_floating in _entries(file):
            found.setdefault(name, []).append(Stored(file, name, shape, is_floating))
    if not found:
        raise CheckpointError(
            f"folder {folder} holds no weights: expected .safetensors files, or pytorch_model.bin"
        )
    return found


def rewrite(file: Path, names: list[str], change: Callable[[str, Tensor], Tensor]) -> None:
    """Write some tensors of a file anew, in place; every other byte of a safetensors file stays.

    Args:
        file: a whole file of weights.
        names: the tensors.
        change: of a name and its values, to values of the same shape and precision.

    Raises:
        CheckpointError: if it cannot be read or written.
    """
    try:
        if file.suffix == ".safetensors":
            places = _places(file)
            for name in names:
                value = change(name, _tensors(file, [name])[name]).contiguous()
                with file.open("r+b") as opened:
                    opened.seek(places[name])
                    opened.write(value.flatten().view(torch.uint8).numpy().tobytes())
            return
        state = _tensors(file)
        for name in names:  # in place: a tied tensor keeps sharing its memory
            state[name].copy_(change(name, state[name].clone()))
        torch.save(state, file)
    except OSError as error:
        raise CheckpointError(f"file {file} cannot be written ({error})") from None


def _entries(file: Path) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    if file.suffix != ".safetensors":
        for name, value in _tensors(file).items():
            if isinstance(value, Tensor):
                yield name, tuple(value.shape), value.is_floating_point()
        return
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                part = opened.get_slice(name)
                kind = part.get_dtype()
                yield name, tuple(part.get_shape()), kind.startswith(("F", "BF"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"file {file} is not a whole safetensors file ({error})") from None


def _tensors(file: Path, names: list[str] | None = None) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in names or opened.keys()}
        except Exception as error:  # a broken file may raise anything
            raise CheckpointError(
                f"file {file} cannot be read: expected tensors alone; {one_line(error)}"
            ) from None
    state = load_torch_file(file)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"file {file} holds {an(type(state))}: expected a state dict")
    check_held({name: value for name, value in state.items() if isinstance(value, Tensor)}, file)
    return dict(state)


def _places(file: Path) -> dict[str, int]:
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}


SIZES = (
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "type_vocab_size",
    "max_position_embeddings",
    "num_labels",
    "d_model",
    "d_ff",
    "n_embd",
    "n_inner",
    "n_positions",
    "num_experts",
    "num_local_experts",
)
LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
)
SLACK = 1_000_000
"""Entries that a model may have beyond those in its files: a new head."""
ENTRIES_OF_BYTE = 8
"""No file holds more."""
BYTES_OF_LAYER = 64
"""A layer has a tensor at least, and a file says its name."""


def check_index(folder: Path) -> None:
    """Refuse an index of shards that names files outside its folder, or that are not there.

    Raises:
        CheckpointError: naming the index and the file.
    """
    for file in sorted(folder.glob("*.index.json")):
        places = config(folder, file.name).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise CheckpointError(
                f"index {file} has no weight_map: expected names of tensors to files beside it; "
                "save the model again"
            )
        for name in dict.fromkeys(map(_named, places.values())):
            path = PurePosixPath(name.replace("\\", "/"))
            if not name or path.is_absolute() or ".." in path.parts or ":" in name:
                raise CheckpointError(
                    f"index {file} names {name[:80]!r}, which is not inside its folder: expected "
                    "files beside it; save the model again"
                )
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"index {file} names {name[:80]!r}, which is not there: copy the folder again"
                )


def check_sizes(settings: Mapping[str, Any], folder: Path, *, name: str = "config.json") -> None:
    """Refuse settings of a model that its files cannot hold.

    Raises:
        CheckpointError: naming the setting.
    """
    held = sum(file.stat().st_size for file in weight_files(folder))
    most = {
        **dict.fromkeys(SIZES, ENTRIES_OF_BYTE * held + SLACK),
        **dict.fromkeys(LAYERS, held // BYTES_OF_LAYER + 1),
    }
    for key, value in _numbers(settings):
        if key in most and not 0 <= value <= most[key]:
            raise CheckpointError(
                f"file {folder / name} asks for {key} {value}, and the weights beside it have "
                f"{held} bytes: expected 0 to {most[key]}; copy the folder again"
            )


def check_built(kind: Any, folder: Path, **options: Any) -> None:
    """Refuse a model with far more parameters than its files can hold, before it takes memory.

    Args:
        kind: a class of transformers.
        folder: of the model.
        options: of its configuration.

    Raises:
        CheckpointError: with both numbers.
    """
    from transformers import AutoConfig

    try:
        settings = options.pop("config", None) or AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **options
        )
        with torch.device("meta"):
            build = kind.from_config if hasattr(kind, "from_config") else kind
            model = build(settings)
    except Exception:  # what is wrong with it shows when it is read
        return
    asked = sum(parameter.numel() for parameter in model.parameters())
    held = sum(file.stat().st_size for file in weight_files(folder))
    if asked > ENTRIES_OF_BYTE * held + SLACK:
        raise CheckpointError(
            f"file {folder / 'config.json'} asks for a model of {asked} parameters, and the "
            f"weights beside it have {held} bytes: expected settings of these weights; copy the "
            "folder again"
        )


def _named(name: Any) -> str:
    return name if isinstance(name, str) else ""


def _numbers(settings: Any, depth: int = 4) -> Iterator[tuple[str, int]]:
    if isinstance(settings, dict) and depth:
        for key, value in settings.items():
            if isinstance(value, int) and not isinstance(value, bool):
                yield key, value
            else:
                yield from _numbers(value, depth - 1)


_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
_NEEDED = 'folders of Hugging Face need its library: pip install "paramattr[hf]"'


def is_folder_of_model(path: str | Path) -> bool:
    """Say whether a folder holds a model or an adapter of Hugging Face."""
    return any((Path(path) / name).is_file() for name in ("config.json", "adapter_config.json"))


def check_folder(folder: Path) -> None:
    """Refuse a folder that is missing, that holds no model, or that leads out of itself.

    transformers and PEFT follow every link and take compressed archives, so this comes before them.

    Raises:
        CheckpointError: saying what is missing, or what does not belong there.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"folder {folder} is not there: expected a local folder that save_pretrained wrote; "
            "nothing is downloaded"
        )
    if not is_folder_of_model(folder):
        raise CheckpointError(
            f"folder {folder} holds no config.json: expected a folder that save_pretrained wrote"
        )
    files = weight_files(folder)
    if not files:
        raise CheckpointError(
            f"folder {folder} holds no weights: expected {', '.join(WEIGHTS)}, as save_pretrained "
            "writes them"
        )
    for file in files:
        if file.suffix != ".safetensors":
            check_archive(file)


def config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Read a file of settings.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        found = parsed_file(folder / name)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"file {folder / name} cannot be read: {error}; expected a JSON object, as "
            "save_pretrained writes it"
        ) from None
    if not isinstance(found, dict):
        raise CheckpointError(
            f"file {folder / name} is no JSON object: expected one, as save_pretrained writes it; "
            f"found {an(type(found))}"
        )
    return found


def library(name: str) -> Any:
    """Import a library of the extra `hf`.

    Raises:
        ParamattrError: if it is not installed.
    """
    try:
        return __import__(name)
    except ImportError:
        raise ParamattrError(f"{name} is not installed; {_NEEDED}") from None


def class_of(config: Mapping[str, Any], folder: Path) -> Any:
    """Find the class of transformers that a folder names.

    Raises:
        ModelError: if it is none of the library's own.
    """
    transformers = library("transformers")
    architectures = config.get("architectures") or ["AutoModel"]
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        raise ModelError(
            f"folder {folder} has architectures {architectures!r}: expected a list of names"
        )
    kind = getattr(transformers, architectures[0], None)
    if not isinstance(kind, type) or not hasattr(kind, "from_pretrained"):
        raise ModelError(
            f"folder {folder} holds {an(architectures[0])}, which transformers "
            f"{transformers.__version__} does not have: code of a folder is not run; build the "
            "model yourself and give it to FAIG"
        )
    return kind


def read_model(kind: Any, folder: Path, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Read a model in float32, which holds what half precisions do exactly.

    Args:
        kind: a class of transformers.
        folder: where it is.
        options: of its `from_pretrained`.

    Returns:
        The model in evaluation mode, and what transformers says of its loading. What the folder
        lacks is filled up at random, and is among the `missing_keys`.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        model, info = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # each kind of file is refused by another class
        raise CheckpointError(
            f"folder {folder} cannot be read as {kind.__name__}: {first_line(error)}"
        ) from None
    is_quantised = getattr(model, "quantization_method", None) is not None
    return (model if is_quantised else model.float()).eval(), info


def tokenizer(*folders: Path) -> Any | None:
    """Read the tokenizer of the first folder that holds one.

    Raises:
        CheckpointError: if it cannot be read.
    """
    for folder in folders:
        files = [folder / name for name in _TOKENIZER_FILES]
        if any(file.is_file() or file.is_symlink() for file in files):
            try:
                return library("transformers").AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
            except Exception as error:  # tokenizers refuse broken files by several classes
                raise CheckpointError(
                    f"the tokenizer in {folder} cannot be read: {first_line(error)}"
                ) from None
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing bars and tables of what we say ourselves."""
    logging = library("transformers").utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Give the first two lines of what an error says, in one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:240] if lines else type(error).__name__
