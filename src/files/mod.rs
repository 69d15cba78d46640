//! Places of bytes: folders, packs, the Hub and its cache, mapped files, and output that appears whole or not at all.
pub mod archive;
pub mod digest;
pub mod hashed;
pub mod hub;
pub mod hub_cache;
pub mod journal;
pub mod json;
mod json_literals;
pub mod lfs_pointer;
pub mod mapped;
pub mod model_files;
pub mod names;
pub mod output_file;
pub mod output_folder;
pub mod pack;
pub mod until_failure;
pub mod weight_files;
pub mod write_pack;
