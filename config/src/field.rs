//! A field that records its fault instead of failing.
//!
//! envy stops at the first field that does not deserialise and prints the raw value with it. A
//! [`Field`] always deserialises, so that one pass finds every fault and no secret is printed.

use serde::{Deserialize, Deserializer};

use crate::value::Value;

/// What became of one setting's text.
#[derive(Debug, Default)]
pub(crate) enum Field<T> {
    /// No layer gave one.
    #[default]
    Absent,
    /// It was read.
    Read(T),
    /// It could not be read, and why.
    Faulty(String),
}

/// A setting that could not be read: the variable and the reason.
pub(crate) type Misread = (&'static str, String);

impl<T> Field<T> {
    /// The value, or the default; a fault is noted under the variable's name.
    pub(crate) fn or(self, default: T, name: &'static str, misread: &mut Vec<Misread>) -> T {
        match self {
            Self::Read(value) => value,
            Self::Absent => default,
            Self::Faulty(reason) => {
                misread.push((name, reason));
                default
            }
        }
    }
}

impl<'de, T: Value> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Where the process environment is no UTF-8 it arrives with this character.
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return Ok(Self::Faulty("is not UTF-8".to_owned()));
        }
        Ok(T::parse(&text).map_or_else(Self::Faulty, Self::Read))
    }
}
