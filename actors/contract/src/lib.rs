//! Messages, events, ids, error kinds and port traits that every service shares.
//!
//! Nothing in here knows a vendor. Tables are in the migrations of the store adapters; topics,
//! groups and wire shapes are here and nowhere else.

pub mod access;
pub mod compose;
pub mod decide;
pub mod event;
pub mod ids;
pub mod kind;
pub mod memory;
pub mod message;
pub mod model;
pub mod persona;
pub mod port;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tool;
pub mod topic;
pub mod turn;

pub use event::{Event, EventType, Role};
pub use ids::{Clock, EffectId, EventId, Ids, Owner, SessionId, TenantId, TurnId};
pub use kind::{Classified, Kind};
