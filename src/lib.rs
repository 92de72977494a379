//! The SomaAgent01 platform: every service a supervised actor in one executable.
