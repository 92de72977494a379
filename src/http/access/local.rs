//! Who may ask where nobody needs a token: programs of this machine, and not the pages of other
//! sites in its browser.
//!
//! Listening on loopback keeps other machines out, but a browser is on this one: a page anywhere can
//! send requests that need no preflight (`Origin` tells), and with a name of its own that resolves to
//! `127.0.0.1` it could even read the answers (`Host` tells).

use std::net::IpAddr;

use actix_web::{
    HttpRequest,
    http::{Uri, header, uri::Authority},
};

use crate::http::{codes, problem::Problem};

/// Endings of names that nobody can register for a site.
const PRIVATE: [&str; 3] = [".localhost", ".local", ".internal"];

/// Refuses what a page of another site has sent.
pub(super) fn check(request: &HttpRequest) -> Result<(), Problem> {
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let host = request.uri().authority().map(Authority::as_str).or_else(|| text(header::HOST));
    if let Some(host) = host.filter(|host| !is_own_host(host)) {
        return Err(foreign("Host", host));
    }
    match text(header::ORIGIN).filter(|origin| is_of_a_site(origin)) {
        Some(origin) => Err(foreign("Origin", origin)),
        None => Ok(()),
    }
}

fn foreign(header: &str, value: &str) -> Problem {
    Problem::new(codes::FOREIGN_ORIGIN, format!("the header `{header}` is `{value}`"))
}

/// An address is no name that could be made to resolve to this machine.
fn is_own_host(host: &str) -> bool {
    host.parse::<Authority>().is_ok_and(|authority| {
        let host = bare(&authority);
        host.parse::<IpAddr>().is_ok()
            || is_localhost(host)
            || PRIVATE.iter().any(|ending| host.to_ascii_lowercase().ends_with(ending))
    })
}

/// Programs send no `Origin`, or one with a scheme of their own; `null` may be anybody.
fn is_of_a_site(origin: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return true };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) => {
            let host = bare(authority);
            !is_localhost(host) && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        (Some(_), _) => false,
        (None, _) => true,
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Returns the host without the brackets of an IPv6 address.
fn bare(authority: &Authority) -> &str {
    authority.host().trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_site_could_have_are_not_ours() {
        for own in [
            "127.0.0.1:8010",
            "localhost",
            "LOCALHOST:8010",
            "soma.localhost:8010",
            "[::1]:8010",
            "host.docker.internal:8010",
        ] {
            assert!(is_own_host(own), "{own}");
        }
        for other in
            ["evil.example:8010", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b"]
        {
            assert!(!is_own_host(other), "{other}");
        }
    }

    #[test]
    fn pages_of_sites_are_told_from_programs() {
        for site in [
            "https://evil.example",
            "http://localhost.evil.example",
            "http://203.0.113.7",
            "null",
            "",
            "nonsense",
        ] {
            assert!(is_of_a_site(site), "{site}");
        }
        for program in [
            "http://localhost:3000",
            "http://127.0.0.1:8010",
            "http://[::1]:8010",
            "tauri://localhost",
        ] {
            assert!(!is_of_a_site(program), "{program}");
        }
    }
}
