//! Published models by family: which `model_type` they have, and what mixbit does that their config does not say.

/// Published models of one `model_type`.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// Family, under which people look for them.
    pub family: &'static str,
    /// Their names.
    pub models: &'static str,
    /// What is done that the config does not say; empty for nothing.
    pub note: &'static str,
}

/// Published models, those of a family one after the other.
const PUBLISHED: &[Published] = &[
    Published {
        model_type: "llama",
        family: "Llama",
        models: "Llama 2 and 3.x, TinyLlama, SmolLM2",
        note: "an absent `tie_word_embeddings` is false. It is written out, because mlx-lm takes it for true",
    },
    Published {
        model_type: "llama4_text",
        family: "Llama",
        models: "MobileLLM-R1",
        note: "the MLP's width comes from the tensors. A `no_rope_layers` that turns RoPE off everywhere is an artefact \
               and is ignored. `attn_scale` is temperature tuning, not a factor of the scores",
    },
    Published {
        model_type: "llama4",
        family: "Llama",
        models: "Llama 4 Scout and Maverick",
        note: "the text model, as `qwen3_moe`. `moe_layers` and `no_rope_layers` are applied, and q/k norm has the config's epsilon",
    },
    Published {
        model_type: "iquestcoder",
        family: "Llama",
        models: "IQuest-Coder",
        note: "as `llama`, with defaults of its own",
    },
    Published {
        model_type: "mistral",
        family: "Mistral",
        models: "Mistral 7B v0.1 to v0.3",
        note: "the sliding window is applied",
    },
    Published {
        model_type: "mistral3",
        family: "Mistral",
        models: "Mistral Small 3.1 and 3.2, Ministral 3",
        note: "the text model, a `mistral`, `ministral3` or `llama`",
    },
    Published {
        model_type: "ministral3",
        family: "Mistral",
        models: "Ministral 3, text only",
        note: "queries grow with their positions past the trained context. A sliding window is applied",
    },
    Published {
        model_type: "pixtral",
        family: "Mistral",
        models: "Pixtral 12B",
        note: "the text model, a `mistral` or `llama`",
    },
    Published {
        model_type: "mixtral",
        family: "Mistral",
        models: "Mixtral 8x7B and 8x22B",
        note: "as `qwen3_moe`",
    },
    Published {
        model_type: "llava",
        family: "LLaVA",
        models: "LLaVA 1.5",
        note: "the text model, a `llama` or `mistral`",
    },
    Published {
        model_type: "qwen",
        family: "Qwen",
        models: "Qwen 1 and 1.5 under the name `qwen`",
        note: "q, k and v are one matrix, which gets one setting. `use_dynamic_ntk` and `use_logn_attn`, which work past the trained context, are not applied, as in mlx-lm",
    },
    Published {
        model_type: "qwen2",
        family: "Qwen",
        models: "Qwen2 and Qwen2.5, QwQ, DeepSeek-R1-Distill-Qwen",
        note: "as `llama`; sliding windows are applied where `use_sliding_window` turns them on",
    },
    Published {
        model_type: "qwen2_vl",
        family: "Qwen",
        models: "Qwen2-VL",
        note: "the text model. The three positions of a token are one in a text",
    },
    Published { model_type: "qwen2_5_vl", family: "Qwen", models: "Qwen2.5-VL", note: "as `qwen2_vl`" },
    Published { model_type: "qwen3", family: "Qwen", models: "Qwen3", note: "" },
    Published {
        model_type: "qwen3_moe",
        family: "Qwen",
        models: "Qwen3 with experts, such as Qwen3-30B-A3B",
        note: "the experts' tensors become one, stacked as mlx-lm does it. Routers stay float, outside the target. \
               Sliding windows and `rope_scaling` are applied",
    },
    Published {
        model_type: "qwen2_moe",
        family: "Qwen",
        models: "Qwen1.5 and Qwen2 with experts",
        note: "as `qwen3_moe`. The shared expert is quantized, its gate stays float. `norm_topk_prob`, `mlp_only_layers` and windows are applied",
    },
    Published {
        model_type: "qwen3_vl",
        family: "Qwen",
        models: "Qwen3-VL without experts",
        note: "as `qwen2_vl`",
    },
    Published {
        model_type: "qwen3_vl_moe",
        family: "Qwen",
        models: "Qwen3-VL with experts, such as Qwen3-VL-30B-A3B",
        note: "as `qwen2_vl` and `qwen3_moe`. mlx-lm cannot load a tied head",
    },
    Published {
        model_type: "gemma",
        family: "Gemma",
        models: "Gemma 1",
        note: "GELU is its approximation with tanh, as in transformers",
    },
    Published {
        model_type: "gemma2",
        family: "Gemma",
        models: "Gemma 2",
        note: "the sliding windows are applied",
    },
    Published {
        model_type: "gemma3_text",
        family: "Gemma",
        models: "Gemma 3 270M and 1B, text only",
        note: "`layer_types` and `rope_parameters` are written as mlx-lm reads them. mlx-lm cannot run a model in which no block has full attention, and a note says so",
    },
    Published {
        model_type: "gemma3",
        family: "Gemma",
        models: "Gemma 3 4B, 12B and 27B",
        note: "the text model, as `gemma3_text`",
    },
    Published { model_type: "phi", family: "Phi", models: "Phi-1, 1.5 and 2", note: "" },
    Published {
        model_type: "phi3",
        family: "Phi",
        models: "Phi-3, 3.5 and 4",
        note: "q, k and v are one matrix, and gate and up another; each gets one setting. `longrope` has its short factors up to the trained context",
    },
    Published {
        model_type: "phimoe",
        family: "Phi",
        models: "Phi-3.5 with experts",
        note: "as `qwen3_moe` and `phi3`. `short_mscale` and `long_mscale` must be one number",
    },
    Published {
        model_type: "phi-msft",
        family: "Phi",
        models: "Phixtral",
        note: "as `qwen3_moe`. The sizes are those of `n_embd` and the like, which mlx-lm does not read, and are written for it",
    },
    Published { model_type: "phixtral", family: "Phi", models: "Phixtral converted", note: "as `phi-msft`" },
    Published { model_type: "granite", family: "Granite", models: "Granite 3 dense", note: "" },
    Published {
        model_type: "granitemoe",
        family: "Granite",
        models: "Granite 3 with experts",
        note: "as `qwen3_moe`",
    },
    Published {
        model_type: "olmo",
        family: "OLMo",
        models: "OLMo 1",
        note: "in its makers' form, which mlx-lm reads one token at a time, or in transformers', which it cannot load. `clip_qkv` is applied",
    },
    Published { model_type: "olmo2", family: "OLMo", models: "OLMo 2", note: "" },
    Published { model_type: "olmo3", family: "OLMo", models: "OLMo 3", note: "" },
    Published {
        model_type: "olmoe",
        family: "OLMo",
        models: "OLMoE",
        note: "as `qwen3_moe`. `clip_qkv` is refused",
    },
    Published { model_type: "exaone", family: "EXAONE", models: "EXAONE 3 and 3.5", note: "as `llama`" },
    Published {
        model_type: "exaone4",
        family: "EXAONE",
        models: "EXAONE 4",
        note: "the windows of `layer_types` are written as the letters that mlx-lm reads",
    },
    Published { model_type: "exaone_moe", family: "EXAONE", models: "K-EXAONE", note: "as `glm4_moe`" },
    Published {
        model_type: "glm",
        family: "GLM",
        models: "GLM-4 9B of 2024 in transformers' form, GLM-Edge",
        note: "as `glm4`. As much of a head is rotated as the config says; mlx-lm rotates all of it",
    },
    Published {
        model_type: "glm4",
        family: "GLM",
        models: "GLM-4 9B and 32B 0414",
        note: "gate and up are one matrix, which gets one setting",
    },
    Published {
        model_type: "glm4_moe",
        family: "GLM",
        models: "GLM-4.5 to 4.7",
        note: "as `qwen3_moe`. Shared experts are quantized; what corrects the choice keeps its type. Layers that predict further tokens are left out. Experts outside the chosen groups are left out, where mlx-lm gives them a score of 0",
    },
    Published { model_type: "cohere", family: "Cohere", models: "Command R and R+, Aya", note: "" },
    Published {
        model_type: "cohere2",
        family: "Cohere",
        models: "Command R7B, Command A",
        note: "`layer_types` becomes the pattern that mlx-lm reads",
    },
    Published {
        model_type: "starcoder2",
        family: "StarCoder",
        models: "StarCoder2",
        note: "the activation is the config's, and the sliding window is applied",
    },
    Published {
        model_type: "gpt_bigcode",
        family: "StarCoder",
        models: "StarCoder 1, SantaCoder",
        note: "the activation is the config's. Positions are learned: texts end at `n_positions`",
    },
    Published { model_type: "nemotron", family: "Nemotron", models: "Nemotron 3 and 4, Minitron", note: "" },
    Published { model_type: "stablelm", family: "StableLM", models: "StableLM 3B, StableLM 2", note: "" },
    Published {
        model_type: "gpt2",
        family: "GPT-2",
        models: "GPT-2",
        note: "matrices are turned, as mlx-lm does. Positions are learned: texts end at `n_positions`",
    },
    Published {
        model_type: "gpt_neox",
        family: "GPT-NeoX",
        models: "GPT-NeoX 20B, Pythia",
        note: "the activation is the config's: GELU where mlx-lm approximates it",
    },
    Published { model_type: "gptj", family: "GPT-J", models: "GPT-J 6B", note: "" },
    Published {
        model_type: "apertus",
        family: "Apertus",
        models: "Apertus",
        note: "the learned numbers of the activation stay float",
    },
    Published { model_type: "plamo", family: "PLaMo", models: "PLaMo 13B", note: "" },
    Published {
        model_type: "plamo3",
        family: "PLaMo",
        models: "PLaMo 3",
        note: "q, k and v are one matrix, and gate and up another; each gets one setting",
    },
    Published {
        model_type: "nanochat",
        family: "nanochat",
        models: "nanochat",
        note: "norms have `rms_norm_eps`, where mlx-lm has 1e-5 always",
    },
    Published { model_type: "openelm", family: "OpenELM", models: "OpenELM", note: "" },
    Published {
        model_type: "smollm3",
        family: "SmolLM",
        models: "SmolLM3",
        note: "an absent `no_rope_layers` follows `no_rope_layer_interval`. Both it and the `layer_types` that `use_sliding_window` means are written out for mlx-lm",
    },
    Published {
        model_type: "ernie4_5",
        family: "ERNIE",
        models: "ERNIE 4.5 without experts",
        note: "`rope_scaling` is applied",
    },
    Published {
        model_type: "ernie4_5_moe",
        family: "ERNIE",
        models: "ERNIE 4.5 with experts",
        note: "as `glm4_moe`. Experts are chosen with their correction, which mlx-lm leaves out",
    },
    Published {
        model_type: "helium",
        family: "Helium",
        models: "Helium 1",
        note: "`rope_scaling` is applied. mlx-lm cannot load a tied head",
    },
    Published {
        model_type: "internlm2",
        family: "InternLM",
        models: "InternLM2 and 2.5",
        note: "q, k and v are one matrix, which gets one setting",
    },
    Published {
        model_type: "internlm3",
        family: "InternLM",
        models: "InternLM3",
        note: "`qkv_bias` and `bias` may be called `attention_bias` and `mlp_bias`, as transformers 5 does. Published names are written",
    },
    Published {
        model_type: "hunyuan_v1_dense",
        family: "Hunyuan",
        models: "Hunyuan 0.5B to 7B, dense",
        note: "`alpha` stretches the rotation's base. It cannot forget a part of a text, which ends with the context",
    },
    Published {
        model_type: "lille-130m",
        family: "Lille",
        models: "Lille 130M",
        note: "q, k and v are one matrix, which gets one setting",
    },
    Published {
        model_type: "minicpm",
        family: "MiniCPM",
        models: "MiniCPM 1 and 2",
        note: "logits of a tied head have their factor too. Such a head is written as one that is missing, which mlx-lm takes from the embedding",
    },
    Published {
        model_type: "mimo",
        family: "MiMo",
        models: "MiMo 7B",
        note: "as `qwen2`; the layers that predict further tokens are left out, as in mlx-lm",
    },
    Published {
        model_type: "mimo_v2_flash",
        family: "MiMo",
        models: "MiMo-V2-Flash",
        note: "as `glm4_moe`. A window has `sliding_window_size` keys before the query's own, one more than in mlx-lm",
    },
    Published { model_type: "muse_glimmer", family: "Muse", models: "Muse Glimmer", note: "the text model" },
    Published {
        model_type: "seed_oss",
        family: "Seed",
        models: "Seed-OSS",
        note: "absent `attention_bias` is true, and written out: mlx-lm takes it for false",
    },
    Published {
        model_type: "spark2_5",
        family: "Spark",
        models: "Spark X2.5",
        note: "q, k and v are one matrix, which gets one setting. Gates of heads stay float",
    },
    Published {
        model_type: "telechat3",
        family: "TeleChat",
        models: "TeleChat3",
        note: "`telechat3-yarn` has its makers' factor on attention, 0.07 ln(factor) + 1. An `mscale` is written that makes mlx-lm compute it too",
    },
    Published {
        model_type: "xverse",
        family: "XVERSE",
        models: "XVERSE",
        note: "read as `llama`, as mlx-lm does",
    },
    Published {
        model_type: "gpt_oss",
        family: "gpt-oss",
        models: "gpt-oss 20B and 120B",
        note: "as `qwen3_moe`; `mxfp4` experts pass through without loss. The ramp of `yarn` is not rounded to whole dimensions where \
               `truncate` is false",
    },
    Published {
        model_type: "deepseek",
        family: "DeepSeek",
        models: "DeepSeek MoE 16B",
        note: "as `glm4_moe`",
    },
    Published {
        model_type: "dbrx",
        family: "DBRX",
        models: "DBRX",
        note: "as `qwen3_moe`, but that each expert is written as layers of its own, as mlx-lm has them; those of a kind in a block \
               have one setting",
    },
    Published {
        model_type: "step3p5",
        family: "Step",
        models: "Step 3.5 Flash",
        note: "as `glm4_moe`. Layers that predict further tokens are left out",
    },
    Published { model_type: "dots1", family: "dots", models: "dots.llm1", note: "as `glm4_moe`" },
    Published {
        model_type: "bailing_moe",
        family: "Ling",
        models: "Ling and Ring up to 2.0",
        note: "as `glm4_moe`. The head that `norm_head` divides is written divided",
    },
    Published { model_type: "minimax_m2", family: "MiniMax", models: "MiniMax M2", note: "as `glm4_moe`" },
    Published { model_type: "solar_open", family: "Solar", models: "Solar Open", note: "as `glm4_moe`" },
    Published { model_type: "afmoe", family: "Trinity", models: "Trinity (AFMoE)", note: "as `glm4_moe`" },
    Published { model_type: "Klear", family: "Klear", models: "Klear 46B", note: "as `glm4_moe`" },
    Published {
        model_type: "mellum",
        family: "Mellum",
        models: "Mellum 2",
        note: "as `qwen3_moe`. Layers that predict further tokens are left out",
    },
    Published {
        model_type: "laguna",
        family: "Laguna",
        models: "Laguna XS",
        note: "as `glm4_moe`. One gate per head; a gate per value is refused",
    },
];

/// Returns all published models, those of a family one after the other.
pub fn published() -> &'static [Published] {
    PUBLISHED
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::models::architectures::rows;

    #[test]
    fn every_row_is_in_a_family() {
        let registered: BTreeSet<&str> = rows().iter().map(|row| row.model_type).collect();
        let listed: BTreeSet<&str> = published().iter().map(|models| models.model_type).collect();
        assert_eq!(registered, listed, "registry.rs against families.rs");
        assert_eq!(published().len(), listed.len(), "a model type stands twice");
    }

    #[test]
    fn families_are_not_scattered() {
        let mut families: Vec<&str> = published().iter().map(|models| models.family).collect();
        families.dedup();
        assert_eq!(families.len(), families.iter().collect::<BTreeSet<_>>().len(), "{families:?}");
    }
}
