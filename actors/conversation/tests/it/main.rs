//! The worker on fakes, with every part on one thread and paused time.
#![cfg(test)]

mod cancels;
mod crashes;
mod drains;
mod failures;
mod house;
mod mortal;
mod records;
mod tools;
mod turns;
