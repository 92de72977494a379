//! The edge over real sockets and fakes.

mod access;
mod described;
mod input;
mod messages;
mod openai;
mod resources;
mod streams;
mod support;
