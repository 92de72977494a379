//! Starts the executable and talks to it.

mod api;
mod server;

pub(crate) use self::{
    api::{Api, Sent},
    server::{Server, Setup, until},
};
