//! The recipes that mixbit carries: quant-recipes/*.toml of the repository.

/// Name and TOML of each, in the order they are listed.
pub const BUILTIN: [(&str, &str); 8] = [
    ("balanced", include_str!("../../../quant-recipes/balanced.toml")),
    ("small", include_str!("../../../quant-recipes/small.toml")),
    ("uniform-4bit", include_str!("../../../quant-recipes/uniform-4bit.toml")),
    ("mobilellm-r1-4.5bpw", include_str!("../../../quant-recipes/mobilellm-r1-4.5bpw.toml")),
    ("mixed-2-6", include_str!("../../../quant-recipes/mixed-2-6.toml")),
    ("mixed-3-4", include_str!("../../../quant-recipes/mixed-3-4.toml")),
    ("mixed-3-6", include_str!("../../../quant-recipes/mixed-3-6.toml")),
    ("mixed-4-6", include_str!("../../../quant-recipes/mixed-4-6.toml")),
];
