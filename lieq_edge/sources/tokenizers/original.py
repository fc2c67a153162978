"""The tokenizer as transformers loads it: whatever the files say, its behaviour is what a GGUF file has to repeat."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...system.memory import is_memory_error
from ...system.temporary import temporary_folder
from ..plain_files import is_plain_file, read_json

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""Roles of special tokens that GGUF has keys for, in the order in which they are written."""

Message = dict[str, str]

FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""Files that a tokenizer may be loaded from."""

TEMPLATE_FOLDER = "additional_chat_templates"
"""Folder of further chat templates."""

_MOST_FROM_A_LETTER = 1000

_LOADING = threading.Lock()  # modules of transformers that two threads import at once are seen half made


class Original:
    """A tokenizer of transformers.

    Attributes:
        path: file that a user knows it by.
        document: the effective ``tokenizer.json``: vocabulary, merges and added tokens from all files together.
        roles: ids of special tokens by role.
        templates: chat templates by name; ``default`` is the one that is used without tools.
        prefix: ids that it puts before every text.
        suffix: ids that it puts after every text.
        separates: it puts something between two texts.
    """

    def __init__(self, tokenizer: Any, path: Path) -> None:
        """Ask ``tokenizer`` how it behaves.

        Args:
            tokenizer: a tokenizer of transformers.
            path: file that a user knows it by.

        Raises:
            InputError: it is not one of the ``tokenizers`` library, or cannot be run.
        """
        self.path = path
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                f"{path} is loaded as {type(tokenizer).__name__}, which is not a tokenizer of the tokenizers library; "
                "choose another model."
            )
        with refusing(path):
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = False
            self._backend = backend
            self.document: dict[str, Any] = json.loads(backend.to_str())
            self.roles = self._roles()
            self.templates = _templates(tokenizer.chat_template)
        self.prefix, self.suffix = self._additions()
        with refusing(path):
            plain = self.encode("a"), self.encode("b")
            pair = list(backend.encode("a", "b", add_special_tokens=True).ids)
        self.separates = len(pair) > len(self.prefix) + len(plain[0]) + len(plain[1]) + len(self.suffix)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, nothing added; special tokens in it are found.

        Raises:
            InputError: the library cannot run the tokenizer.
        """
        with refusing(self.path):
            return list(self._backend.encode(text, add_special_tokens=False).ids)

    def render(self, messages: Sequence[Message], *, prompt: bool) -> str | None:
        """A conversation as text by the default chat template; None where the template refuses it.

        Args:
            messages: the conversation.
            prompt: the text ends where the assistant's reply begins.
        """
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
        except Exception:  # templates raise errors of their own, e.g. where they know no system role
            return None
        return text if isinstance(text, str) else None

    def _roles(self) -> dict[str, int]:
        roles: dict[str, int] = {}
        for role in ROLES:
            text = getattr(self._tokenizer, f"{role}_token", None)
            index = None if text is None else self._backend.token_to_id(str(text))
            if index is not None:
                roles[role] = int(index)
        return roles

    def _additions(self) -> tuple[list[int], list[int]]:
        with refusing(self.path):
            whole = list(self._backend.encode("a", add_special_tokens=True).ids)
        if len(whole) > _MOST_FROM_A_LETTER:
            raise InputError(f"{self.path} makes {len(whole)} tokens of one letter; fetch it again.")
        plain = self.encode("a")
        for start in range(len(whole) - len(plain) + 1):
            if plain and whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
        raise InputError(
            f"{self.path} makes tokens of a text that it lacks without its special tokens; choose another model."
        )


def load_original(directory: Path, path: Path) -> Original:
    """Load the tokenizer of a directory as ``AutoTokenizer`` does, without code of the directory's own.

    Args:
        directory: with ``tokenizer.json``, or with ``vocab.json`` and ``merges.txt``.
        path: file that a user knows the tokenizer by.

    Raises:
        InputError: transformers cannot load it.
    """
    with _LOADING, _only_known(directory) as folder, refusing(path, folder), _quiet_transformers() as library:
        tokenizer = library.AutoTokenizer.from_pretrained(
            str(folder), config=_model_config(library, folder), local_files_only=True, trust_remote_code=False
        )
    return Original(tokenizer, path)


@contextlib.contextmanager
def _only_known(directory: Path) -> Iterator[Path]:
    """A folder with links to the files of ``directory`` that count, so that transformers opens no other ones."""
    with temporary_folder() as folder:
        templates = [f"{TEMPLATE_FOLDER}/{path.name}" for path in (directory / TEMPLATE_FOLDER).glob("*.jinja")]
        if templates:
            (folder / TEMPLATE_FOLDER).mkdir()
        for name in (*FILES, *templates):
            if is_plain_file(directory / name):
                try:
                    (folder / name).symlink_to((directory / name).absolute())
                except OSError:  # Windows lets few users make links
                    shutil.copyfile(directory / name, folder / name)
        yield folder


@contextlib.contextmanager
def refusing(path: Path, folder: Path | None = None) -> Iterator[None]:
    """Turn whatever transformers and tokenizers raise into an InputError.

    Args:
        path: file that is named.
        folder: temporary folder of which the user need not hear: the file's own stands for it.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        # Where the Rust library panics it raises something that is not an Exception.
        if is_memory_error(error) or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if folder is not None:
            reason = reason.replace(str(folder), str(path.parent))
        reason = reason[:300]
        raise InputError(f"{path} is a tokenizer that transformers cannot load ({reason}); fetch it again.") from error


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[Any]:
    """transformers without its log about unusual files; what matters of that is said by the comparison."""
    import transformers

    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield transformers
    finally:
        logging.set_verbosity(before)


def _model_config(library: Any, directory: Path) -> Any:
    """What transformers chooses a tokenizer class by, without settings that it would make tables for."""
    path = directory / "config.json"
    document = read_json(path) if is_plain_file(path) else {}
    kinds, kind = library.CONFIG_MAPPING, document.get("model_type")
    config = kinds[kind]() if isinstance(kind, str) and kind in kinds else library.PretrainedConfig()
    config.tokenizer_class = document.get("tokenizer_class")
    config._name_or_path = str(directory)
    return config


def _templates(template: Any) -> dict[str, str]:
    named = template if isinstance(template, dict) else {"default": template}
    return {str(name): text for name, text in named.items() if isinstance(text, str)}
