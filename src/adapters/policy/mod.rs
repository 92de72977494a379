//! The policy port, by vendor.
