//! The model port, by vendor, and the counting of tokens.

pub mod offline;
pub mod openai;
pub mod tokens;
