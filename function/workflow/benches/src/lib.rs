//! What the programs of this crate have in common.

pub mod inputs;
