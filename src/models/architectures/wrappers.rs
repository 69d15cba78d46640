//! Wrappers as data: which decoders they hold, and what lies beside these.

use crate::models::wrapper::{Layout, PREFIX, Tie, Wrapper};

/// Towers of models with a CLIP or Pixtral encoder.
const VISION_TOWER: &[&str] = &["vision_tower", "multi_modal_projector"];

/// Towers of Qwen's models: `visual` in transformers, `vision_tower` in what runs images with MLX.
const VISUAL: &[&str] = &["visual", "vision_tower"];

/// Decoders that mlx-lm runs as `llama`.
const LLAMA_LIKE: &[(&str, &str)] = &[("mistral", "mistral"), ("llama", "llama")];

/// Mistral Small 3.1 and 3.2, Ministral 3.
pub const MISTRAL3: Wrapper = Wrapper {
    default_text: "mistral",
    texts: &[("mistral", "mistral"), ("llama", "llama"), ("ministral3", "ministral3")],
    towers: VISION_TOWER,
    layout: Layout::Nested,
    tie: Tie::TextFirst,
    tied_by_default: false,
    prefix: PREFIX,
    repeated: &[],
};

/// Gemma 3 4B to 27B.
pub const GEMMA3: Wrapper = Wrapper {
    default_text: "gemma3_text",
    texts: &[("gemma3_text", "gemma3_text")],
    tied_by_default: true,
    repeated: &["vocab_size"],
    ..MISTRAL3
};

/// LLaVA 1.5, and Pixtral 12B as transformers has it.
pub const LLAVA: Wrapper = Wrapper { default_text: "llama", texts: LLAMA_LIKE, tie: Tie::Either, ..MISTRAL3 };

/// Pixtral 12B as others have it.
pub const PIXTRAL: Wrapper = Wrapper { texts: LLAMA_LIKE, tie: Tie::Never, ..MISTRAL3 };

/// Llama 4 Scout and Maverick.
pub const LLAMA4: Wrapper = Wrapper {
    default_text: "llama4_text",
    texts: &[("llama4_text", "llama4_moe_text")],
    towers: &["vision_model", "multi_modal_projector"],
    tie: Tie::Never,
    ..MISTRAL3
};

/// Muse Glimmer, or its text decoder alone.
pub const MUSE_GLIMMER: Wrapper = Wrapper {
    default_text: "muse_glimmer_text",
    texts: &[("muse_glimmer_text", "muse_glimmer_text")],
    towers: &["vision_tower", "vision_adapter", "vision_projection"],
    layout: Layout::NestedOrFlat,
    prefix: "",
    ..MISTRAL3
};

/// Qwen2-VL.
pub const QWEN2_VL: Wrapper = Wrapper {
    default_text: "qwen2_vl_text",
    texts: &[("qwen2_vl_text", "qwen2_vl_text")],
    towers: VISUAL,
    layout: Layout::NestedOrFlat,
    tie: Tie::Either,
    ..MISTRAL3
};

/// Qwen2.5-VL.
pub const QWEN2_5_VL: Wrapper =
    Wrapper { default_text: "qwen2_5_vl_text", texts: &[("qwen2_5_vl_text", "qwen2_5_vl_text")], ..QWEN2_VL };

/// Qwen3-VL, dense.
pub const QWEN3_VL: Wrapper = Wrapper {
    default_text: "qwen3_vl_text",
    texts: &[("qwen3_vl_text", "qwen3_vl_text")],
    towers: VISUAL,
    ..MISTRAL3
};

/// Qwen3-VL with experts.
pub const QWEN3_VL_MOE: Wrapper = Wrapper {
    default_text: "qwen3_vl_moe_text",
    texts: &[("qwen3_vl_moe_text", "qwen3_vl_moe_text")],
    ..QWEN3_VL
};
