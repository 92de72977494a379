//! Where the endpoint is: what people write as a base URL, and what has to be called.

use reqwest::Url;

use super::SetupError;

/// The two addresses that are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// For answers.
    pub(super) chat: Url,
    /// For the list of models.
    pub(super) models: Url,
}

impl Address {
    /// Understands `http://host`, `…/v1`, `…/v1/` and `…/v1/chat/completions`. A path that has no
    /// segment like `v1` or `v1beta` gets `/v1`, unless the whole path was given.
    pub(super) fn parse(text: &str) -> Result<Self, SetupError> {
        let fault =
            |reason: &str| SetupError::BaseUrl { url: text.to_owned(), reason: reason.to_owned() };
        let url = Url::parse(text.trim()).map_err(|error| fault(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(fault("it must begin with `http://` or `https://`"));
        }
        let path = url.path().trim_end_matches('/');
        let base = match path.strip_suffix("/chat/completions") {
            Some(base) => base.to_owned(),
            None if path.split('/').any(is_version) => path.to_owned(),
            None => format!("{path}/v1"),
        };
        let at = |end: &str| {
            let mut url = url.clone();
            url.set_path(&format!("{base}{end}"));
            url.set_fragment(None);
            url
        };
        Ok(Self { chat: at("/chat/completions"), models: at("/models") })
    }

    /// Returns whether the endpoint is on this very machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.chat
            .host_str()
            .is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]")
    }
}

fn is_version(segment: &str) -> bool {
    segment
        .strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|character: char| character.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_base_url_leads_to_the_same_place() {
        for (given, chat) in [
            ("http://localhost:11434", "http://localhost:11434/v1/chat/completions"),
            ("http://localhost:11434/", "http://localhost:11434/v1/chat/completions"),
            ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
            ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
            (
                "https://api.openai.com/v1/chat/completions",
                "https://api.openai.com/v1/chat/completions",
            ),
            ("https://openrouter.ai/api", "https://openrouter.ai/api/v1/chat/completions"),
            (
                "https://generativelanguage.googleapis.com/v1beta/openai/",
                "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
            ),
            ("https://a.test/chat/completions", "https://a.test/chat/completions"),
            ("https://a.test/v1?version=2", "https://a.test/v1/chat/completions?version=2"),
        ] {
            assert_eq!(Address::parse(given).unwrap().chat.as_str(), chat, "{given}");
        }
        let address = Address::parse("http://127.0.0.1:1/v1").unwrap();
        assert_eq!(address.models.as_str(), "http://127.0.0.1:1/v1/models");
        assert!(address.is_loopback());
        assert!(!Address::parse("https://a.test").unwrap().is_loopback());
    }

    #[test]
    fn what_is_no_web_address_is_refused() {
        for text in ["", "localhost:11434", "ftp://a.test", "/v1"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
