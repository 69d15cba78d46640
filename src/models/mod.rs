//! The model that a folder holds: config, decoder specification, architectures, tensor names, bit map, inventory.
pub mod architectures;
pub mod bitmap;
pub mod config;
mod config_lists;
pub mod contents;
pub mod defaults;
pub mod derived;
mod dropped;
mod incoming;
pub mod inventory;
pub mod mechanisms;
pub mod names;
mod notes;
pub mod source;
pub mod spec;
pub mod stack;
pub mod towers;
pub mod wrapper;
