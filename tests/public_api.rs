//! Snapshot of the library's interface: every public item of the documented modules. CHANGELOG.md has to name changes of it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::{Attribute, Fields, ImplItem, Item, ItemImpl, TraitItem, UseTree, Visibility};

/// Public items by their full names, in the order of the sources.
#[derive(Default)]
struct Listing {
    lines: Vec<String>,
}

impl Listing {
    /// Adds what the module `name` has, whose source is `file` and whose submodules are in `folder`.
    fn module(&mut self, name: &str, file: &Path, folder: &Path) {
        let source = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed = syn::parse_file(&source).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let types: Vec<String> = parsed.items.iter().filter_map(public_type).collect();
        for item in &parsed.items {
            match item {
                Item::Impl(item) if item.trait_.is_some() && !types.contains(&implementor(item)) => {}
                item => self.item(name, item, folder),
            }
        }
    }

    fn item(&mut self, module: &str, item: &Item, folder: &Path) {
        let mut add = |text: String| self.lines.push(format!("{module}: {text}"));
        match item {
            Item::Mod(item) if is_public(&item.vis, &item.attrs) => {
                let (name, inner) = (item.ident.to_string(), folder.join(item.ident.to_string()));
                let file = folder.join(format!("{name}.rs"));
                let file = if file.exists() { file } else { inner.join("mod.rs") };
                self.module(&format!("{module}::{name}"), &file, &inner);
            }
            Item::Use(item) if is_public(&item.vis, &item.attrs) => {
                for name in names(&item.tree, "") {
                    self.lines.push(format!("{module}: use {name}"));
                    self.reexported(module, &name, folder);
                }
            }
            Item::Fn(item) if is_public(&item.vis, &item.attrs) => add(text(&item.sig)),
            Item::Const(item) if is_public(&item.vis, &item.attrs) => {
                add(format!("const {}: {}", item.ident, text(&item.ty)));
            }
            Item::Type(item) if is_public(&item.vis, &item.attrs) => {
                add(format!("type {} = {}", item.ident, text(&item.ty)));
            }
            Item::Struct(item) if is_public(&item.vis, &item.attrs) => {
                add(format!("struct {}{}{}", item.ident, text(&item.generics), derived(&item.attrs)));
                for field in item.fields.iter().filter(|field| is_public(&field.vis, &field.attrs)) {
                    let name = field.ident.as_ref().map_or_else(|| "0".to_owned(), ToString::to_string);
                    add(format!("{}.{name}: {}", item.ident, text(&field.ty)));
                }
            }
            Item::Enum(item) if is_public(&item.vis, &item.attrs) => {
                let variants: Vec<String> = item.variants.iter().map(|v| v.ident.to_string()).collect();
                let variants = format!("{{ {} }}", variants.join(", "));
                let generics = text(&item.generics);
                add(format!("enum {}{generics} {variants}{}", item.ident, derived(&item.attrs)));
                let payloads = item.variants.iter().filter(|variant| !variant.fields.is_empty());
                for variant in payloads {
                    add(format!("{}::{}{}", item.ident, variant.ident, payload(&variant.fields)));
                }
            }
            Item::Trait(item) if is_public(&item.vis, &item.attrs) => {
                add(format!("trait {}{}", item.ident, text(&item.generics)));
                for function in &item.items {
                    if let TraitItem::Fn(function) = function {
                        add(format!("{}: {}", item.ident, text(&function.sig)));
                    }
                }
            }
            Item::Impl(item) => match &item.trait_ {
                Some((_, path, _)) => add(format!("impl {} for {}", text(path), text(&item.self_ty))),
                None => self.methods(module, item),
            },
            _ => {}
        }
    }

    /// Adds the item that `module`, whose submodules are in `folder`, makes public by `use path`.
    fn reexported(&mut self, module: &str, path: &str, folder: &Path) {
        let Some((inside, name)) = path.rsplit_once("::") else { return };
        let source = inside.split("::").fold(folder.to_owned(), |folder, part| folder.join(part));
        let file = source.with_extension("rs");
        let file = if file.exists() { file } else { source.join("mod.rs") };
        // Another room's.
        let Ok(text) = fs::read_to_string(&file) else { return };
        for item in &syn::parse_file(&text).unwrap().items {
            match item {
                Item::Use(inner) if is_public(&inner.vis, &inner.attrs) => {
                    let paths = names(&inner.tree, "");
                    let same = paths.iter().filter(|path| path.rsplit("::").next() == Some(name));
                    same.for_each(|path| self.reexported(module, path, &source));
                }
                item if defines(item, name) => self.item(module, item, &source),
                _ => {}
            }
        }
    }

    fn methods(&mut self, module: &str, item: &ItemImpl) {
        for member in &item.items {
            let line = match member {
                ImplItem::Fn(method) if is_public(&method.vis, &method.attrs) => text(&method.sig),
                ImplItem::Const(constant) if is_public(&constant.vis, &constant.attrs) => {
                    format!("const {}: {}", constant.ident, text(&constant.ty))
                }
                _ => continue,
            };
            self.lines.push(format!("{module}: {}: {line}", text(&item.self_ty)));
        }
    }
}

/// True if an item is public and has not been left out of the documentation.
fn is_public(visibility: &Visibility, attributes: &[Attribute]) -> bool {
    let hides = |attribute: &Attribute| {
        let is_doc = attribute.path().is_ident("doc");
        is_doc && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "hidden")
    };
    matches!(visibility, Visibility::Public(_)) && !attributes.iter().any(hides)
}

/// True if `item` is the item `name`, or has its methods.
fn defines(item: &Item, name: &str) -> bool {
    match item {
        Item::Fn(item) => item.sig.ident == name,
        Item::Const(item) => item.ident == name,
        Item::Type(item) => item.ident == name,
        Item::Struct(item) => item.ident == name,
        Item::Enum(item) => item.ident == name,
        Item::Trait(item) => item.ident == name,
        Item::Impl(item) => implementor(item) == name,
        _ => false,
    }
}

/// Name of a public struct or enum.
fn public_type(item: &Item) -> Option<String> {
    match item {
        Item::Struct(item) if is_public(&item.vis, &item.attrs) => Some(item.ident.to_string()),
        Item::Enum(item) if is_public(&item.vis, &item.attrs) => Some(item.ident.to_string()),
        _ => None,
    }
}

/// Name of the type that an `impl` is for, without its parameters.
fn implementor(item: &ItemImpl) -> String {
    text(&item.self_ty).split('<').next().unwrap_or_default().to_owned()
}

/// The traits that are derived: `: Debug, Clone`.
fn derived(attributes: &[Attribute]) -> String {
    let lists = attributes.iter().filter(|attribute| attribute.path().is_ident("derive"));
    let traits: Vec<String> = lists
        .flat_map(|list| list.meta.require_list().map(|list| list.tokens.to_string().replace(" :: ", "::")))
        .flat_map(|list| list.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>())
        .filter(|name| !name.is_empty())
        .collect();
    if traits.is_empty() { String::new() } else { format!(": {}", traits.join(", ")) }
}

/// The fields of an enum's variant: `(u32)` or `{ bits: u32 }`.
fn payload(fields: &Fields) -> String {
    let types = fields.iter().map(|field| match &field.ident {
        Some(name) => format!("{name}: {}", text(&field.ty)),
        None => text(&field.ty),
    });
    let types = types.collect::<Vec<_>>().join(", ");
    match fields {
        Fields::Named(_) => format!(" {{ {types} }}"),
        _ => format!("({types})"),
    }
}

/// Names that a `use` makes public.
fn names(tree: &UseTree, before: &str) -> Vec<String> {
    match tree {
        UseTree::Path(path) => names(&path.tree, &format!("{before}{}::", path.ident)),
        UseTree::Name(name) => vec![format!("{before}{}", name.ident)],
        UseTree::Rename(rename) => vec![format!("{before}{} as {}", rename.ident, rename.rename)],
        UseTree::Glob(_) => vec![format!("{before}*")],
        UseTree::Group(group) => group.items.iter().flat_map(|item| names(item, before)).collect(),
    }
}

/// The source of `node` on one line.
fn text(node: &impl Spanned) -> String {
    let source = node.span().source_text().unwrap_or_default();
    let line = source.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace("( ", "(").replace(", )", ")").replace(",)", ")")
}

#[test]
fn public_items_are_those_listed() {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut listing = Listing::default();
    listing.module("mixbit", &source.join("lib.rs"), &source);
    assert!(listing.lines.len() > 100, "the listing has {} lines", listing.lines.len());
    insta::assert_snapshot!("public_api", listing.lines.join("\n"));
}
