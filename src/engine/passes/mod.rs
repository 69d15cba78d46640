//! Passes over all blocks with one block in memory: forward, replay from the head down, and what is collected on the way.
pub mod collector;
pub mod forward;
pub mod head;
pub mod moments;
pub mod replay;
pub mod states;
