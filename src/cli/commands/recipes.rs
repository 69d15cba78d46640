//! `mixbit recipes`: the recipes that mixbit carries.

use crate::choose::recipe::{BUILTIN, Recipe};
use crate::cli::args::{Recipes, RecipesCommand};
use crate::error::Result;
use crate::report::{Align, Table, out};

/// Runs the command.
pub fn run(args: &Recipes) -> Result<()> {
    match &args.command {
        None => list(),
        Some(RecipesCommand::Show { name }) => out(Recipe::load(name)?.text()),
    }
}

fn list() -> Result<()> {
    let mut table =
        Table::new(&[("recipe", Align::Left), ("target bpw", Align::Left), ("what it does", Align::Left)]);
    for recipe in BUILTIN.iter().filter_map(|(name, _)| Recipe::builtin(name)) {
        let recipe = recipe?;
        let target = recipe.target_bpw.map_or_else(|| "fixed".to_owned(), |target| target.to_string());
        table.row([recipe.name, target, recipe.description]);
    }
    out(&table.to_string())
}
