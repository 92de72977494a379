//! The table of keys, built from the sections, and how much of a value may be shown.

use std::{net::Ipv6Addr, sync::LazyLock};

use crate::central::CentralizedConfig;

static KEYS: LazyLock<Vec<Key>> = LazyLock::new(CentralizedConfig::keys_of_sections);

/// Every key, in the order of the sections.
pub fn keys() -> &'static [Key] {
    &KEYS
}

/// The key of this name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    keys().iter().find(|key| key.name == name)
}

/// One setting.
#[derive(Debug, Clone)]
pub struct Key {
    /// The variable, such as `SA01_GATEWAY_BIND`.
    pub name: &'static str,
    /// The section it belongs to, such as `Gateway`.
    pub section: &'static str,
    /// The field of that section's struct.
    pub field: &'static str,
    /// What it means, in the lines of its doc comment.
    pub about: &'static str,
    /// What its value is, in a word or two: `duration`, `size`, `secret`.
    pub kind: &'static str,
    /// What to write, for a fault.
    pub hint: &'static str,
    /// The value where no layer gives one.
    pub default: Option<String>,
    /// How much of its value may be shown.
    pub secrecy: Secrecy,
    /// A value to show where there is no default.
    pub example: Option<&'static str>,
}

impl Key {
    /// What to write instead of a value that cannot be used. A hint without words to choose from
    /// is made plain by an example.
    pub(crate) fn way_out(&self) -> String {
        match self.example.or(self.default.as_deref()) {
            Some(example) if !self.hint.contains('`') && self.secrecy != Secrecy::Secret => {
                format!("write {}, such as `{example}`", self.hint)
            }
            _ => format!("write {}", self.hint),
        }
    }
}

/// How much of a value may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// All of it.
    Open,
    /// All but the user, the password and the query of a URL.
    Credentials,
    /// Nothing of it.
    Secret,
}

const MASK: &str = "***";

/// A longer open value is cut when shown.
const LONGEST_SHOWN: usize = 120;

impl Secrecy {
    /// Whether the value may come from the file that `NAME_FILE` names.
    pub fn allows_file(self) -> bool {
        self != Self::Open
    }

    /// What may be shown of a value.
    pub(crate) fn mask(self, text: &str) -> String {
        match self {
            Self::Open => open(text),
            Self::Credentials => mask_url(text),
            Self::Secret => MASK.to_owned(),
        }
    }
}

/// Control characters are escaped, so that a value cannot forge a line of the report.
fn open(text: &str) -> String {
    let shown: String = text.chars().take(LONGEST_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().count() > LONGEST_SHOWN { format!("{shown}…") } else { shown }
}

/// Shows scheme, host and path of a URL. Whatever is not plainly a URL is masked as a whole: a
/// password with an unescaped `/`, `?` or `@` moves the borders, and showing too little is safe.
fn mask_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return MASK.to_owned() };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (credentials, host) = match authority.rsplit_once('@') {
        Some((_, host)) => ("***@", host),
        None => ("", authority),
    };
    if tail.contains('@') || !is_scheme(scheme) || !is_host_and_port(host) {
        return MASK.to_owned();
    }
    let path = tail.split(['?', '#']).next().unwrap_or_default();
    let query = if path.len() < tail.len() { "?***" } else { "" };
    open(&format!("{scheme}://{credentials}{host}{path}{query}"))
}

fn is_scheme(text: &str) -> bool {
    text.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter))
}

/// Strict, as the authority may be a user and a password whose host was forgotten:
/// `postgres://soma:secret`.
fn is_host_and_port(text: &str) -> bool {
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port_is_fine = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return address.parse::<Ipv6Addr>().is_ok() && port_is_fine;
    }
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    host.chars().all(is_plain) && is_port(port)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_url_is_shown_without_its_credentials() {
        let shown = |text| Secrecy::Credentials.mask(text);
        assert_eq!(shown("postgresql://soma:pw@db:5432/soma"), "postgresql://***@db:5432/soma");
        assert_eq!(shown("redis://:pw@cache:6379/0"), "redis://***@cache:6379/0");
        assert_eq!(shown("http://opa:8181"), "http://opa:8181");
        assert_eq!(shown("http://[::1]:8181/x"), "http://[::1]:8181/x");
        assert_eq!(shown("postgres://db/soma?password=pw"), "postgres://db/soma?***");
        assert_eq!(shown("postgresql:///soma?host=/run"), "postgresql:///soma?***");
    }

    #[test]
    fn what_is_not_plainly_a_url_is_not_shown() {
        for text in [
            "secret",
            "soma:secret@db",
            "postgres://soma:secret",
            "postgres://soma:secret]",
            "postgres://[soma]:secret",
            "postgres://soma:a/secret@db",
            "postgres://soma:a?secret@db",
            "postgres://soma:a#secret@db",
            "postgres://db:5432/soma?password=a@secret",
            "secret x://db",
        ] {
            assert_eq!(Secrecy::Credentials.mask(text), "***", "{text}");
        }
    }

    #[test]
    fn an_open_value_cannot_forge_a_line() {
        assert_eq!(Secrecy::Open.mask("a\nb"), "a\\nb");
        assert!(Secrecy::Open.mask(&"x".repeat(500)).ends_with('…'));
    }

    #[test]
    fn names_are_unique_and_every_key_says_what_it_means() {
        for (place, key) in keys().iter().enumerate() {
            assert!(key.name.starts_with("SA01_"), "{}", key.name);
            assert!(!key.name.ends_with("_FILE"), "{}", key.name);
            assert!(keys().iter().skip(place + 1).all(|other| other.name != key.name));
            assert!(key.about.trim().ends_with('.'), "{}: {}", key.name, key.about);
            assert!(key.default.is_some() || key.example.is_some(), "{}", key.name);
        }
    }

    proptest! {
        #[test]
        fn a_password_in_a_url_is_never_shown(password in "[ -~]{8,24}") {
            prop_assume!(!password.chars().all(|digit| digit.is_ascii_digit()));
            let url = format!("postgresql://soma:{password}@db:5432/soma");
            let shown = Secrecy::Credentials.mask(&url);
            prop_assert!(!shown.contains(&password), "{}", shown);
        }
    }
}
