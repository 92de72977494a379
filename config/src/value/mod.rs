//! What a setting may be: how each type is read from text and shown again.

mod choice;
mod secret;
mod size;
mod time;

use std::{net::SocketAddr, path::PathBuf};

pub use choice::{JwtAlgorithm, LogFormat, Mode, SaslMechanism, SecurityProtocol};
pub use secret::{Secret, ServerUrl};
pub use size::Size;

use crate::key::Secrecy;

/// A list of names, separated by commas in text.
pub type Names = Vec<String>;

/// A type that a setting can have.
pub(crate) trait Value: Sized {
    /// What it is, in a word or two, for the reference.
    const KIND: &'static str;
    /// What to write, for a fault.
    const HINT: &'static str;
    /// What to write where a list of such values is asked for.
    const LIST_HINT: &'static str = "a list, separated by commas";
    /// How much of the text may be shown.
    const SECRECY: Secrecy = Secrecy::Open;

    /// Reads the value. The reason of a failure goes on after the value (`` `x` is not ... ``)
    /// and never repeats it, as only the caller knows how much of it may be shown.
    fn parse(text: &str) -> Result<Self, String>;

    /// The text that would give this value again, secrets masked; `None` if there is none.
    fn show(&self) -> Option<String>;
}

impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    const HINT: &'static str = T::HINT;
    const SECRECY: Secrecy = T::SECRECY;

    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

impl<T: Value> Value for Vec<T> {
    const KIND: &'static str = "list";
    const HINT: &'static str = T::LIST_HINT;
    const SECRECY: Secrecy = T::SECRECY;

    fn parse(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items = items.map(T::parse).collect::<Result<Self, _>>()?;
        if items.is_empty() { Err("holds no item".to_owned()) } else { Ok(items) }
    }

    fn show(&self) -> Option<String> {
        let items: Vec<_> = self.iter().filter_map(T::show).collect();
        (!items.is_empty()).then(|| items.join(","))
    }
}

impl Value for String {
    const KIND: &'static str = "text";
    const HINT: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.trim().to_owned())
    }

    fn show(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";
    const HINT: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::from(text.trim()))
    }

    fn show(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl Value for SocketAddr {
    const KIND: &'static str = "address";
    const HINT: &'static str = "an IP address and a port, such as `127.0.0.1:8010`";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.trim().parse().ok().ok_or("is not an IP address and a port")?)
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for bool {
    const KIND: &'static str = "`true` or `false`";
    const HINT: &'static str = "`true` or `false`";

    fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err("is neither true nor false".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! whole_numbers {
    ($($number:ty),+) => {$(
        impl Value for $number {
            const KIND: &'static str = "number";
            const HINT: &'static str = "a whole number, not negative";

            fn parse(text: &str) -> Result<Self, String> {
                let text = text.trim();
                if text.is_empty() || text.contains(|digit: char| !digit.is_ascii_digit()) {
                    return Err("is not a whole number".to_owned());
                }
                Ok(text.parse().ok().ok_or("is too large")?)
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+};
}

whole_numbers!(u32, u64, usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_forgives_spaces_and_a_trailing_comma() {
        assert_eq!(Names::parse(" a, b ,"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert!(Names::parse(" , ").is_err());
        assert_eq!(Names::new().show(), None);
    }

    #[test]
    fn a_number_is_digits_within_its_range() {
        assert_eq!(u32::parse(" 40 "), Ok(40));
        for bad in ["-1", "+1", "1.5", "1_000", "", "4294967296"] {
            assert!(u32::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_switch_is_read_in_any_of_its_usual_spellings() {
        assert_eq!(bool::parse("TRUE"), Ok(true));
        assert_eq!(bool::parse("off"), Ok(false));
        assert!(bool::parse("maybe").is_err());
    }

    #[test]
    fn an_address_has_an_ip_and_a_port() {
        assert!(SocketAddr::parse("127.0.0.1:8010").is_ok());
        assert!(SocketAddr::parse("[::1]:0").is_ok());
        assert!(SocketAddr::parse("localhost:8010").is_err());
        assert!(SocketAddr::parse("8010").is_err());
    }
}
