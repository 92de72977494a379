//! The store port, by vendor.
