//! Tools that touch the world.
