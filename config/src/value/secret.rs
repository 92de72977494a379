//! Text that must not be shown, wholly or in part.

use std::{borrow::Cow, fmt};

use serde::{Serialize, Serializer};
use validator::ValidateUrl;

use super::Value;
use crate::key::Secrecy;

/// A secret: prints as `***` wherever it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl Value for Secret {
    const KIND: &'static str = "secret";
    const HINT: &'static str = "a secret";
    const SECRECY: Secrecy = Secrecy::Secret;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::new(text))
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// The address of a server, which may hold a user and a password: both are masked when printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// Wraps an address.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The address as it was given, credentials included.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What stands before `://`, in lower case.
    pub(crate) fn scheme(&self) -> String {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase()
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&Secrecy::Credentials.mask(&self.0))
    }
}

impl Serialize for ServerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Secrecy::Credentials.mask(&self.0))
    }
}

impl ValidateUrl for ServerUrl {
    fn as_url_string(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.0))
    }
}

impl Value for ServerUrl {
    const KIND: &'static str = "URL";
    const HINT: &'static str = "a URL";
    const SECRECY: Secrecy = Secrecy::Credentials;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::new(text.trim()))
    }

    fn show(&self) -> Option<String> {
        Some(Secrecy::Credentials.mask(&self.0))
    }
}
