"""A language model of transformers with its tokenizer: opened without running code of the checkpoint, and applied.

Axes: B sequences, T tokens with padding, L letters or tokens of one sequence, D numbers of a vector, V tokens of the
vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subquad.bio.data.alphabet import AMBIGUOUS, is_nucleotide
from subquad.bio.settings import ALPHABETS
from subquad.errors import SubquadError, reading, require
from subquad.runs.checkpoint_files import check_no_other_files
from subquad.runs.storage import fingerprint

__all__ = ["LanguageModel", "checkpoint_fingerprint", "open_language_model"]

MOST_LAYERS = 1000
NOT_READ = ("pooler", "contact_head", "position_ids")
"""Parts of the names of weights that the vector of a token does not depend on."""
NO_LIMIT = 1_000_000
"""Limits of tokenizers above this number stand for none."""
OFFSET_POSITIONS = ("esm", "roberta", "xlm-roberta", "camembert")
"""Model types that count positions from the index of the padding token."""
SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A language model of sequences."""

    name: str
    network: Any
    """The encoder, or for scores the encoder with its masked-language-model head."""
    tokenizer: Any
    is_spaced: bool
    """The tokenizer reads letters that are separated by spaces."""
    is_letterwise: bool
    """Each letter is one token."""
    replaced: dict[str, str]
    """Letters that the tokenizer does not know, and those that stand for them."""
    max_tokens: int | None
    """Maximum number of tokens of a sequence, with the special ones; None for any."""
    special_tokens: int
    """Number of special tokens of a sequence."""

    @property
    def max_letters(self) -> int | None:
        """Maximum number of letters, or of tokens that are not special; None for any."""
        return None if self.max_tokens is None else self.max_tokens - self.special_tokens

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the vectors of the tokens of each sequence, `(L, D)` float32, without special tokens."""
        encoded = [self._encode(text) for text in texts]
        hidden = (
            self.network.base_model(**self._padded([ids for ids, _ in encoded])).last_hidden_state.float().cpu().numpy()
        )
        return [own[: len(is_own)][is_own] for own, (_, is_own) in zip(hidden, encoded, strict=True)]

    @torch.no_grad()
    def masked_log_probabilities(self, text: str, positions: Sequence[int], letters: str) -> np.ndarray:
        """Return log p of each of the letters at each position (from 0) if it is masked, `(positions, letters)`."""
        ids, is_own = self._encode(text)
        places = np.flatnonzero(is_own)[np.asarray(positions)]
        rows = [np.where(np.arange(len(ids)) == place, self.tokenizer.mask_token_id, ids).tolist() for place in places]
        logits = self.network(**self._padded(rows)).logits
        logs = logits[torch.arange(len(rows)), torch.from_numpy(places)].float().log_softmax(1)
        return logs[:, [self._token_of(letter) for letter in letters]].cpu().numpy()

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a sequence, without special ones."""
        return int(self._encode(text)[1].sum())

    def _encode(self, text: str) -> tuple[list[int], np.ndarray]:
        """Return the tokens of a sequence, and which of them are not special."""
        text = "".join(self.replaced.get(letter, letter) for letter in text)
        written = " ".join(text) if self.is_spaced else text
        found = self.tokenizer(written, return_special_tokens_mask=True, verbose=False)
        return found["input_ids"], ~np.array(found["special_tokens_mask"], dtype=bool)

    def _token_of(self, letter: str) -> int:
        ids, is_own = self._encode(letter)
        return ids[int(np.flatnonzero(is_own)[0])]

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for k, row in enumerate(rows):
            ids[k, : len(row)] = torch.tensor(row)
            mask[k, : len(row)] = 1
        return {"input_ids": ids.to(self.network.device), "attention_mask": mask.to(self.network.device)}


def checkpoint_fingerprint(name: str) -> str:
    """Return hex digits that change with the files of a checkpoint: their sizes, and the ends of the weights."""
    folder = Path(name)
    parts: list[bytes | str] = [name]
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_file():
            parts += [file.name, str(file.stat().st_size)]
            with file.open("rb") as opened:
                opened.seek(max(0, file.stat().st_size - SAMPLE_BYTES))
                parts.append(opened.read())
    return fingerprint(*parts)


def open_language_model(
    name: str, sequence: str, *, alphabet: str, device: str, precision: str, with_head: bool
) -> LanguageModel:
    """Open a checkpoint and its tokenizer.

    Args:
        name: Folder of a checkpoint, or its name on the Hugging Face Hub.
        sequence: Letters of the table, by which the way in which the tokenizer reads them is found.
        alphabet: Name of the alphabet of the table.
        device: `auto`, or PyTorch's name of a device.
        precision: `float32` or `bfloat16`.
        with_head: Also open the masked-language-model head.

    Raises:
        SubquadError: There is no checkpoint, weights or tokenizer are missing, transformers does not know the
            architecture, it has no head, or the tokenizer does not know the letters.
        MissingExtra: transformers is not installed.
    """
    require("transformers", extra="embed")
    # an allocation shows whether the device is there
    default = "cuda" if torch.cuda.is_available() else "cpu"
    with reading(device, "a device of PyTorch"):
        chosen = torch.empty(1, device=default if device == "auto" else device).device
    check_no_other_files(Path(name))
    with reading(name, "a checkpoint of transformers"), _without_warnings():
        from transformers import AutoConfig, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            # transformers would make each of them, which takes hours if the number is damaged
            if getattr(config, "num_hidden_layers", 0) > MOST_LAYERS:
                raise ValueError(f"it has {config.num_hidden_layers:,} layers")
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except ValueError as error:
            if "trust_remote_code" in str(error):
                raise SubquadError(f"{name}: is defined by Python code of its own, which is not run") from error
            raise
        loader = _loader(name, config, with_head=with_head)
        network, found = loader.from_pretrained(
            name,
            dtype=getattr(torch, precision),
            trust_remote_code=False,
            use_safetensors=True,
            # they are reported with the missing ones
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    absent = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    missing = sorted(key for key in absent if not any(part in key for part in NOT_READ))
    if missing:
        # transformers would draw them at random
        raise SubquadError(f"{name}: {len(missing)} weights are missing or have another shape, such as {missing[0]}")
    # a damaged vocabulary is noticed when it is used
    with reading(name, "a tokenizer"):
        is_spaced, is_letterwise, replaced = _reading(name, tokenizer, sequence, alphabet)
        special_tokens = len(tokenizer("")["input_ids"])
    return LanguageModel(
        name=name,
        network=network.to(chosen).eval(),
        tokenizer=tokenizer,
        is_spaced=is_spaced,
        is_letterwise=is_letterwise,
        replaced=replaced,
        max_tokens=_max_tokens(tokenizer, config),
        special_tokens=special_tokens,
    )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide progress bars and warnings of transformers; missing weights are an error here."""
    from transformers.utils import logging

    is_shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if is_shown:
            logging.enable_progress_bar()


def _loader(name: str, config: Any, *, with_head: bool) -> Any:
    from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    if with_head:
        return AutoModelForMaskedLM
    # of encoder-decoders only the encoder, which may be all that the checkpoint has
    if config.model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        return AutoModelForTextEncoding
    if getattr(config, "is_encoder_decoder", False):
        raise SubquadError(f"{name}: transformers has no encoder for a model of type {config.model_type}")
    return AutoModel


def _reading(name: str, tokenizer: Any, sequence: str, alphabet: str) -> tuple[bool, bool, dict[str, str]]:
    """Return whether letters are written with spaces, whether each is a token, and the letters that are replaced."""
    standard = ALPHABETS[alphabet].replace("*", "")
    is_nucleic = is_nucleotide(alphabet)
    if is_nucleic and _reads_proteins(tokenizer):
        raise SubquadError(f"{name}: a model of proteins, which would read the bases A, C, G and T as amino acids")
    # RNA models know U, models of DNA know T
    for letters in (standard, standard.translate(str.maketrans("TU", "UT"))) if is_nucleic else (standard,):
        turned = {a: b for a, b in zip(standard, letters, strict=True) if a != b}
        for is_spaced in (False, True):
            probe = "".join(turned.get(letter, letter) for letter in sequence if letter in standard)
            found = _tokens(tokenizer, letters + probe, is_spaced=is_spaced)
            if tokenizer.unk_token_id in found:
                continue
            is_letterwise = len(found) == len(letters + probe)
            known = {a for a in AMBIGUOUS[alphabet] + "UO" if _is_known(tokenizer, a, is_spaced=is_spaced)}
            other = next((a for a in ("N" if is_nucleic else "X") if a in known), None)
            unknown = [a for a in AMBIGUOUS[alphabet] + ("" if is_nucleic else "UO") if a not in known]
            return is_spaced, is_letterwise, turned | (dict.fromkeys(unknown, other) if other else {})
    unknown = "".join(a for a in standard if not _is_known(tokenizer, a, is_spaced=False))
    raise SubquadError(f"{name}: its tokenizer does not know the letters {unknown or standard} one by one")


def _reads_proteins(tokenizer: Any) -> bool:
    """Return whether a vocabulary has a token for each amino acid, and none for a letter that stands for no residue."""
    letters = ALPHABETS["protein"]
    return all(_is_known(tokenizer, a, is_spaced=False) for a in letters) and not _is_known(
        tokenizer, "J", is_spaced=False
    )


def _tokens(tokenizer: Any, text: str, *, is_spaced: bool) -> list[int]:
    return tokenizer(" ".join(text) if is_spaced else text, add_special_tokens=False, verbose=False)["input_ids"]


def _is_known(tokenizer: Any, letter: str, *, is_spaced: bool) -> bool:
    found = _tokens(tokenizer, letter, is_spaced=is_spaced)
    return bool(found) and tokenizer.unk_token_id not in found


def _max_tokens(tokenizer: Any, config: Any) -> int | None:
    limits = [tokenizer.model_max_length]
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions > 0:
        # these models leave out the positions up to the index of the padding token
        is_offset = config.model_type in OFFSET_POSITIONS
        limits.append(positions - ((config.pad_token_id or 0) + 1 if is_offset else 0))
    found = min(limits)
    return int(found) if found < NO_LIMIT else None
