"""Which files of each kind of saved run are read when it answers, and which of them have no checksum."""

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
OF_LLM = ("config.json", "model.safetensors", "generation_config.json", *TOKENIZER)
READ = {
    "bio_model": ("config.json", "model.safetensors", "ridge.skops", "boosting.skops", "gp.skops"),
    "bio_estimator": ("config.json", "model.safetensors"),
    "bio_embedded": ("config.json", "model.safetensors", "ridge.skops", "input.safetensors"),
    "hep_tagger": ("config.json", "model.safetensors"),
    "hep_auto": ("config.json", "model.safetensors"),
    "hep_card": ("config.json", "model.safetensors"),
    "llm_model": OF_LLM,
    "llm_default": (*OF_LLM, "state.safetensors"),
    "llm_adapter": ("config.json", "model.safetensors", "base/config.json"),
    "merged": ("config.json", "generation_config.json", *TOKENIZER),
}
"""Kind → the files that are read when it answers."""
NOT_CHECKED = {
    # the checkpoint of an adapter is that of its makers: its weights are compared at 64 places
    "llm_adapter": {
        *("input.txt", "base/model.safetensors", "base/generation_config.json"),
        *(f"base/{name}" for name in TOKENIZER),
    },
    # its numbers are the user's
    **{kind: {"input.csv"} for kind in ("bio_model", "bio_estimator", "bio_embedded")},
    **{kind: {"input.root"} for kind in ("hep_tagger", "hep_auto", "hep_card")},
    **{kind: {"input.txt"} for kind in ("llm_model", "llm_default")},
    # a model that transformers saves again has other weights; by its checksums that is recognised
    "merged": {"input.txt", "model.safetensors", "subquad_checksums.json"},
}
"""Kind → files that are read, and in which a change may go unnoticed."""
