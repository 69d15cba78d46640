"""Make a trained model with experts (`qwen3_moe`) out of a small dense one: none that is published is small enough.

    .venv/bin/pip install torch
    .venv/bin/python bench/peers/upcycle.py --model DENSE --text TEXT --out FOLDER

DENSE is a `llama4_text` model with RoPE in every layer, as fixtures/models/mobilellm-docs-1m is. Its attention stays as it
is: weightless norms become weights of 1, and interleaved RoPE the other kind by another order of rows. Each MLP is parted
into experts, every part in several copies with noise, and the whole is trained to the dense model's logits, with a loss
that keeps the router from using few of them (arXiv 2212.05055 and 1701.06538 are where the ideas are from). TEXT is not
needed afterwards; hold it apart from what the result is measured on.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

PARTS, COPIES, PER_TOKEN = 4, 4, 4
COUNT = PARTS * COPIES
LENGTH, BATCH = 256, 4
PEAK_RATE, BALANCE = 1e-3, 0.01


def rms_norm(x, weight, eps):
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def attention(x, w, config, layer, interleaved):
    """Both models' attention; they differ in the order of q's and k's rows."""
    batch, length, _ = x.shape
    dim, prefix = config["head_dim"], f"model.layers.{layer}.self_attn."

    def heads(name):
        return (x @ w[f"{prefix}{name}.weight"].T).view(batch, length, -1, dim).transpose(1, 2)

    angles = torch.arange(length)[:, None] * config["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
    cos, sin = angles.cos(), angles.sin()

    def rotated(x):
        x = rms_norm(x, None, config["rms_norm_eps"])
        a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    q, k, v = rotated(heads("q_proj")), rotated(heads("k_proj")), heads("v_proj")
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).reshape(batch, length, -1) @ w[f"{prefix}o_proj.weight"].T


def gated(x, w, prefix):
    inner = F.silu(x @ w[f"{prefix}gate_proj.weight"].T) * (x @ w[f"{prefix}up_proj.weight"].T)
    return inner @ w[f"{prefix}down_proj.weight"].T


def experts(x, w, prefix):
    """The chosen experts' outputs, and how unevenly tokens are spread over them."""
    tokens = x.reshape(-1, x.shape[-1])
    probabilities = (tokens @ w[f"{prefix}gate.weight"].T).softmax(-1)
    shares, chosen = probabilities.topk(PER_TOKEN)
    shares = shares / shares.sum(-1, keepdim=True)
    out = torch.zeros_like(tokens)
    for expert in range(COUNT):
        rows, slots = (chosen == expert).nonzero(as_tuple=True)
        if len(rows):
            found = gated(tokens[rows], w, f"{prefix}experts.{expert}.")
            out = out.index_add(0, rows, shares[rows, slots][:, None] * found)
    used = F.one_hot(chosen, COUNT).float().mean((0, 1))
    return out.view_as(x), COUNT * (used * probabilities.mean(0)).sum()


def forward(tokens, w, config, sparse):
    """Logits, and the mean of what balances the experts."""
    eps, balance = config["rms_norm_eps"], torch.zeros(())
    h = w["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        normed = rms_norm(h, w[f"{prefix}input_layernorm.weight"], eps)
        h = h + attention(normed, w, config, layer, interleaved=not sparse)
        normed = rms_norm(h, w[f"{prefix}post_attention_layernorm.weight"], eps)
        if sparse:
            added, uneven = experts(normed, w, f"{prefix}mlp.")
            h, balance = h + added, balance + uneven / config["num_hidden_layers"]
        else:
            h = h + gated(normed, w, f"{prefix}feed_forward.")
    return rms_norm(h, w["model.norm.weight"], eps) @ w["model.embed_tokens.weight"].T, balance


def upcycled(dense, config):
    """The weights that training starts from."""
    dim, width = config["head_dim"], config["intermediate_size_mlp"] // PARTS
    order = torch.cat([torch.arange(0, dim, 2), torch.arange(1, dim, 2)])
    w = {}
    for name, value in dense.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            w[name] = value.view(-1, dim, value.shape[1])[:, order].reshape(value.shape).clone()
        elif ".feed_forward." not in name:
            w[name] = value.clone()
    for layer in range(config["num_hidden_layers"]):
        old, new = f"model.layers.{layer}.feed_forward.", f"model.layers.{layer}.mlp."
        for norm in ("q_norm", "k_norm"):
            w[f"model.layers.{layer}.self_attn.{norm}.weight"] = torch.ones(dim)
        w[f"{new}gate.weight"] = torch.randn(COUNT, config["hidden_size"]) / math.sqrt(config["hidden_size"])
        neurons = torch.randperm(width * PARTS).split(width)
        for expert in range(COUNT):
            part = neurons[expert % PARTS]
            for name, value in (
                ("gate_proj", dense[f"{old}gate_proj.weight"][part]),
                ("up_proj", dense[f"{old}up_proj.weight"][part]),
                ("down_proj", PARTS * dense[f"{old}down_proj.weight"][:, part]),
            ):
                w[f"{new}experts.{expert}.{name}.weight"] = value + 0.1 * value.std() * torch.randn_like(value)
    return w


def train(w, dense, config, tokens, steps):
    # Norms of q and k are 1 and stay it: the attention above has none.
    learning = [v.requires_grad_() for name, v in w.items() if not name.endswith(("q_norm.weight", "k_norm.weight"))]
    adam = torch.optim.AdamW(learning, lr=PEAK_RATE, weight_decay=0.0)
    start = time.time()
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = PEAK_RATE * min(1, step / 20) * (1 - step / steps)
        starts = torch.randint(len(tokens) - LENGTH, (BATCH,))
        batch = torch.stack([tokens[s : s + LENGTH] for s in starts])
        with torch.no_grad():
            target = forward(batch, dense, config, sparse=False)[0].log_softmax(-1)
        logits, balance = forward(batch, w, config, sparse=True)
        kl = F.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="none").sum(-1).mean()
        adam.zero_grad()
        (kl + BALANCE * balance).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        adam.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step}: KL {kl:.4f}, balance {balance:.3f}, {time.time() - start:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "text", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = json.loads((args.model / "config.json").read_text())
    dense = load_file(args.model / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokens = torch.tensor(tokenizer.encode(args.text.read_text(), add_special_tokens=False).ids)
    w = upcycled(dense, config)
    with torch.no_grad():
        same = {name: value for name, value in w.items() if ".mlp." not in name}
        mlps = {name: value for name, value in dense.items() if ".feed_forward." in name}
        x = dense["model.embed_tokens.weight"][tokens[None, :32]]
        apart = attention(x, same, config, 0, False) - attention(x, dense, config, 0, True)
        assert apart.abs().max() < 1e-4 and mlps, "the order of rows is wrong"
    train(w, dense, config, tokens, args.steps)

    args.out.mkdir(parents=True)
    width = config["intermediate_size_mlp"] // PARTS
    kept = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "num_key_value_heads",
            "rms_norm_eps", "rope_theta", "head_dim", "tie_word_embeddings", "bos_token_id", "eos_token_id",
            "hidden_act", "max_position_embeddings")  # fmt: skip
    written = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        **{key: config[key] for key in kept},
        "intermediate_size": width * PARTS,
        "moe_intermediate_size": width,
        "num_experts": COUNT,
        "num_experts_per_tok": PER_TOKEN,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "torch_dtype": "float32",
    }
    (args.out / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    tensors = {name: value.detach().contiguous() for name, value in w.items()}
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (args.model / name).exists():
            shutil.copyfile(args.model / name, args.out / name)
    print(f"{sum(v.numel() for v in tensors.values())} parameters in {args.out}")


if __name__ == "__main__":
    main()
