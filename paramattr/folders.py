"""One folder of Hugging Face: its files, its model, its tokenizer. Nothing is downloaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from paramattr.errors import CheckpointError, ModelError, ParamattrError, an
from paramattr.json_text import parsed_file
from paramattr.listing import WEIGHTS, weight_files
from paramattr.torch_files import check_archive

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
