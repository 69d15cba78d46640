"""mlx-lm's own quantizers on one model and text, for `cargo xtask bench quality`.

Each result is a folder with scales and biases in float16 and float embeddings (stock mlx-lm would quantize those too, and
its llama4_text then fails at the tied head). What needs gradients or activations is computed in float32. Prints a JSON line
a result: name, folder, seconds.
"""

import copy
import json
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
from mlx.utils import tree_map
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.quant import awq, dwq, dynamic_quant
from mlx_lm.quant.gptq import gptq_quantize
from mlx_lm.utils import load, quantize_model, save
from windows import arguments, windows


class FloatEmbedding(nn.Embedding):
    """An embedding that mlx-lm does not take for a candidate."""

    @property
    def to_quantized(self):
        raise AttributeError("stays float")


class KeptEmbedding(nn.Embedding):
    """An embedding that stays what it is when AWQ, which asks no predicate, quantizes it."""

    def to_quantized(self, **_):
        return self


def linear_bits_per_weight(model):
    """As compute_bits_per_weight, over the linear layers alone; scales and biases count two bytes."""
    bits = weights = 0
    for module in model.modules():
        if isinstance(module, nn.QuantizedLinear):
            bits += module.weight.nbytes * 8 + 16 * (module.scales.size + module.biases.size)
            weights += module.weight.nbytes * 8 // module.bits
        elif isinstance(module, nn.Linear):
            bits += 16 * module.weight.size
            weights += module.weight.size
    return bits / weights


def in_dtype(model, dtype):
    cast = lambda x: x.astype(dtype) if mx.issubdtype(x.dtype, mx.floating) else x
    model.update(tree_map(cast, model.parameters()))


class Peers:
    def __init__(self, model, out, data):
        self.model, self.out, self.data = model, out, data

    def load(self):
        model, tokenizer, config = load(str(self.model), return_config=True)
        in_dtype(model, mx.float32)
        model.model.embed_tokens.__class__ = FloatEmbedding
        return model, tokenizer, config

    def save(self, name, model, tokenizer, config, started):
        mx.eval(model.parameters())
        seconds = time.time() - started
        in_dtype(model, mx.float16)
        model.model.embed_tokens.__class__ = nn.Embedding
        config["torch_dtype"] = "float16"
        config["quantization_config"] = config["quantization"]
        save(self.out / name, str(self.model), model, tokenizer, config)
        print(json.dumps({"name": name, "folder": str(self.out / name), "seconds": seconds}), flush=True)

    def uniform(self, name, **settings):
        started = time.time()
        model, tokenizer, config = self.load()
        in_dtype(model, mx.float16)
        model, config = quantize_model(model, config, **settings)
        self.save(name, model, tokenizer, config, started)

    def mixed(self, recipe):
        model, _, _ = self.load()
        predicate = mixed_quant_predicate_builder(recipe, model)
        fits = lambda path, module: hasattr(module, "to_quantized") and module.weight.shape[-1] % 64 == 0
        self.uniform(recipe, group_size=64, bits=4, quant_predicate=lambda p, m: fits(p, m) and predicate(p, m))

    def dynamic(self, low, high, targets):
        started = time.time()
        model, tokenizer, config = self.load()
        sensitivities = dict(dynamic_quant.estimate_sensitivities(model, self.data, low, 64, high, 64))
        measured = time.time() - started
        dynamic_quant.compute_bits_per_weight = linear_bits_per_weight
        for target in targets:
            started = time.time() - measured
            this = copy.deepcopy(model)
            threshold = dynamic_quant.estimate_threshold(this, sensitivities, target, low, 64, high, 64)

            def predicate(path, module):
                if not hasattr(module, "to_quantized"):
                    return False
                return {"bits": high, "group_size": 64} if sensitivities[path] > threshold else True

            this, written = quantize_model(
                this, copy.deepcopy(config), group_size=64, bits=low, quant_predicate=predicate
            )
            self.save(f"dynamic-{low}-{high}-at-{target}", this, tokenizer, written, started)

    def gptq(self, bits):
        started = time.time()
        model, tokenizer, config = self.load()
        model, config["quantization"] = gptq_quantize(model, self.data, bits, 64, 8, 64)
        self.save(f"gptq-{bits}", model, tokenizer, config, started)

    def awq(self, bits):
        started = time.time()
        model, tokenizer, config = self.load()
        settings = awq.AWQ_MODEL_CONFIGS.get(config["model_type"])
        if settings is None:
            raise NotImplementedError(f"mlx-lm's AWQ does not know {config['model_type']}")
        model.model.embed_tokens.__class__ = KeptEmbedding
        awq.awq_quantize(model, self.data, settings, group_size=64, bits=bits, embed_group_size=64, embed_bits=bits)
        config = awq.update_config(model, config)
        self.save(f"awq-{bits}", model, tokenizer, config, started)

    def dwq(self, bits, steps=150, batch=4):
        """Its defaults (rate 1e-6, temperature 2), over our text as often as `steps` need it."""
        started = time.time()
        model, tokenizer, config = self.load()
        quantized = copy.deepcopy(model)
        quantized, config = quantize_model(quantized, config, group_size=64, bits=bits)
        sequences = [(sequence, 0) for sequence in self.data.tolist()]
        held_out = max(batch, len(sequences) // 8)
        train, valid = sequences[:-held_out], sequences[-held_out:]
        train = (train * (steps * batch // len(train) + 1))[: steps * batch]
        dwq.dwq_quantize(
            quantized,
            lambda tokens, index, split: model(tokens),
            optimizers.Adam(learning_rate=1e-6, bias_correction=True),
            train,
            valid,
            batch_size=batch,
            max_seq_length=self.data.shape[1],
            seed=123,
            dtype=mx.float32,
        )
        self.save(f"dwq-{bits}", quantized, tokenizer, config, started)


def main():
    given = arguments()
    _, tokenizer = load(str(given.model), lazy=True)
    data = windows(tokenizer, given.text.read_text(), given.samples, given.sequence_length)
    peers = Peers(given.model, given.out, mx.array(data))
    attempts = [(f"uniform-{bits}", lambda bits=bits: peers.uniform(f"uniform-{bits}", group_size=64, bits=bits)) for bits in (2, 3, 4, 5, 6)]
    attempts += [(recipe, lambda recipe=recipe: peers.mixed(recipe)) for recipe in ("mixed_3_6", "mixed_4_6")]
    attempts += [
        ("dynamic-4-5", lambda: peers.dynamic(4, 5, [5.0])),
        ("dynamic-3-6", lambda: peers.dynamic(3, 6, [4.0, 4.5])),
        ("gptq-2", lambda: peers.gptq(2)),
        ("gptq-4", lambda: peers.gptq(4)),
    ]
    attempts += [(f"awq-{bits}", lambda bits=bits: peers.awq(bits)) for bits in (3, 4)]
    attempts += [(f"dwq-{bits}", lambda bits=bits: peers.dwq(bits)) for bits in (3, 4)]
    attempts = [(name, attempt) for name, attempt in attempts if not given.only or name in given.only]
    for name, attempt in attempts:
        try:
            attempt()
        except Exception as error:  # a peer that cannot do this model is a row of the table
            print(json.dumps({"name": name, "failed": f"{type(error).__name__}: {error}"}), flush=True)


if __name__ == "__main__":
    main()
