"""Small language models of proteins and DNA with random weights, saved as checkpoints of transformers."""

import torch
from transformers import EsmConfig, EsmForMaskedLM, EsmModel, EsmTokenizer

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
