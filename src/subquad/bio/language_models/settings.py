"""Settings of `embed`."""

from dataclasses import dataclass
from typing import Literal

from subquad.runs.options import Count, Input, Model, MoreInput, MoreModel, Output, Settings

__all__ = ["EmbedSettings"]


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(Settings):
    """Language model, columns of the table, and what to compute."""

    model: Model[str]
    """Folder of a checkpoint that transformers opens with `AutoModel`, with weights in safetensors (`hf download NAME
    --local-dir FOLDER`), or its name on the Hugging Face Hub, such as facebook/esm2_t12_35M_UR50D."""
    device: Model[str] = "auto"
    """Device of the model: `auto` (a GPU if there is one), `cpu`, or PyTorch's name of a device, such as cuda:1."""
    precision: Model[Literal["float32", "bfloat16"]] = "float32"
    """Numerical precision of the model."""
    batch_tokens: MoreModel[Count] = 8192
    """Maximum number of tokens of a batch, padding included; a longer sequence is a batch of its own."""
    sequence: Input[str | None] = None
    """Column with the sequences. Default: inferred, as in `fit`."""
    mutant: Input[str | None] = None
    """Column with variants (A24G:K30R, p.Ala24Gly …), for tables without full sequences. Default: inferred."""
    wild_type: Input[str | None] = None
    """Wild-type sequence of the variants: letters, a FASTA file or a text file with one sequence. Default: inferred
    from the full sequences, if the table has them."""
    offset: Input[int | None] = None
    """Position in the table minus position in the wild type (counted from 1). Default: inferred from the variants."""
    alphabet: MoreInput[Literal["auto", "dna", "rna", "protein", "protein_stop"]] = "auto"
    """Alphabet of the sequences; `auto` takes the smallest one that contains all letters."""
    residues: Output[bool] = False
    """Also write the vector of each letter. Needs a model with one token per letter."""
    scores: Output[bool] = False
    """Also write the masked-marginal score of each variant. Needs a masked language model with one token per letter."""
