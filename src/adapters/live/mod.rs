//! The live port, by vendor.
