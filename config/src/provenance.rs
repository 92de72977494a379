//! Where a value came from.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

use crate::value::Mode;

/// A source of values; a later one is stronger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Built in.
    Default,
    /// The built-in profile of the deployment mode.
    Profile(Mode),
    /// The `.env` file.
    DotEnv(PathBuf),
    /// The environment of the process.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::Profile(mode) => write!(formatter, "profile {mode}"),
            Self::DotEnv(path) => write!(formatter, "{}", path.display()),
            Self::Environment => formatter.write_str("environment"),
            Self::Flag => formatter.write_str("flag"),
        }
    }
}

/// Where a value came from, by which name and through which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The layer that gave it.
    pub layer: Layer,
    /// The name it was given by, where that is not the key's own.
    pub by_name: Option<String>,
    /// The file it was read from, where `NAME_FILE` named one.
    pub file: Option<PathBuf>,
}

impl Provenance {
    /// Given by a layer, by the key's own name.
    pub(crate) fn of(layer: Layer) -> Self {
        Self { layer, by_name: None, file: None }
    }

    pub(crate) fn through(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.layer)?;
        if let Some(name) = &self.by_name {
            write!(formatter, ", as {name}")?;
        }
        if let Some(file) = &self.file {
            write!(formatter, ", from {}", file.display())?;
        }
        Ok(())
    }
}

impl Serialize for Provenance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
