//! Where the server is. Pure.

use reqwest::Url;

/// Appends a path to a base URL, which may have one itself; `None` if that is none.
pub(super) fn join(base: &str, path: &str) -> Option<Url> {
    let mut url = Url::parse(base.trim()).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}/{path}"));
    url.set_fragment(None);
    Some(url)
}

/// Says whether the server is on this very machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str()
        .is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_may_have_a_path() {
        for (base, joined) in [
            ("http://opa:8181", "http://opa:8181/v1/data/x"),
            ("http://opa:8181/", "http://opa:8181/v1/data/x"),
            ("https://a.test/policy/", "https://a.test/policy/v1/data/x"),
        ] {
            assert_eq!(join(base, "v1/data/x").unwrap().as_str(), joined);
        }
        for none in ["", "opa:8181", "ftp://opa", "/v1"] {
            assert_eq!(join(none, "x"), None, "{none}");
        }
    }
}
