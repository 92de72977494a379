//! Runs tools under policy, each started at most as often as its effect class allows.
