"""Small language models of proteins and DNA with random weights, saved as checkpoints of transformers."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    EsmConfig,
    EsmForMaskedLM,
    EsmModel,
    EsmTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Model,
)

AMINO = "LAGVSERTIDPKQNFYMHWC"
TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *AMINO, "X", "<mask>"]


def esm(folder, *, tokens=TOKENS, with_head=True, seed=0, limit=129):
    """Save an ESM-2 with two layers of width 16 that reads `limit` tokens, and return its folder."""
    config = EsmConfig(
        vocab_size=len(tokens),
        mask_token_id=tokens.index("<mask>"),
        pad_token_id=1,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=limit + 2,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
    )
    torch.manual_seed(seed)
    network = EsmForMaskedLM(config) if with_head else EsmModel(config)
    # weights are initialized near zero, so that all vectors would be nearly the same
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.mul_(20)
    network.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens))
    EsmTokenizer(str(folder / "vocab.txt"), model_max_length=limit).save_pretrained(folder)
    return folder


def t5_with_spaces(folder, *, seed=0):
    """Save an encoder whose tokenizer reads letters between spaces, as ProtT5's does, and return its folder."""
    tokens = ["<pad>", "</s>", "<unk>", *AMINO, "X"]
    vocabulary = {token: k for k, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _t5(T5EncoderModel, folder, tokenizer, len(tokens), seed)


def t5_with_pairs(folder, *, seed=0):
    """Save an encoder-decoder of DNA whose tokens are up to four letters, as DNABERT-2's are, and return its folder."""
    tokens = ["<pad>", "</s>", "<unk>", *"ACGT", "AC", "GT", "ACGT"]
    merges = [("A", "C"), ("G", "T"), ("AC", "GT")]
    tokenizer = Tokenizer(BPE({token: k for k, token in enumerate(tokens)}, merges, unk_token="<unk>"))
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _t5(T5Model, folder, tokenizer, len(tokens), seed)


def _t5(kind, folder, tokenizer, size, seed):
    config = T5Config(vocab_size=size, d_model=12, d_kv=6, d_ff=20, num_layers=2, num_heads=2, decoder_start_token_id=0)
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 31}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder
