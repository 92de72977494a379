//! The name resolver of `http_fetch`: what it hands out is what is connected to, and nothing else.
//!
//! Checking a name first and letting the client look it up again would let the answer change in
//! between. Here the one look-up that the connection uses is the one that is checked.

use std::{collections::BTreeSet, error::Error, fmt, io, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::refusal;

/// Looks names up; the system's resolver, or a test's.
#[async_trait]
pub trait Lookup: Send + Sync + fmt::Debug {
    /// Returns the addresses of a name; the port does not matter.
    ///
    /// # Errors
    ///
    /// The name does not exist or nobody could be asked.
    async fn lookup(&self, name: &str) -> io::Result<Vec<SocketAddr>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.collect())
    }
}

/// Hosts that may be private: by name, with all below a name (`*.example.org`), or by address.
#[derive(Debug, Clone, Default)]
pub struct AllowedHosts(BTreeSet<String>);

impl AllowedHosts {
    /// Takes names as an operator writes them.
    pub fn new<S: AsRef<str>>(hosts: impl IntoIterator<Item = S>) -> Self {
        Self(hosts.into_iter().map(|host| canonical(host.as_ref())).collect())
    }

    /// Returns whether the host may be private.
    pub(super) fn contains(&self, host: &str) -> bool {
        let host = canonical(host);
        let above = host.match_indices('.').filter_map(|(dot, _)| host.get(dot..));
        self.0.contains(&host) || above.into_iter().any(|rest| self.0.contains(&format!("*{rest}")))
    }
}

fn canonical(host: &str) -> String {
    let bare = host.trim().trim_start_matches('[').trim_end_matches(']');
    bare.trim_end_matches('.').to_ascii_lowercase()
}

/// Why a host is not connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{host}` is not on the public internet ({kind} address); it may not be fetched")]
pub(super) struct Refused {
    /// The name or address.
    pub(super) host: String,
    /// What its address is instead.
    pub(super) kind: &'static str,
}

/// Hands out addresses of public hosts only.
#[derive(Debug, Clone)]
pub(super) struct Guarded {
    lookup: Arc<dyn Lookup>,
    allowed: AllowedHosts,
}

impl Guarded {
    pub(super) fn new(lookup: Arc<dyn Lookup>, allowed: AllowedHosts) -> Self {
        Self { lookup, allowed }
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let guarded = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let addresses = guarded.lookup.lookup(host).await?;
            guarded.check(host, &addresses)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

impl Guarded {
    /// One private address is enough to refuse: a public host has none.
    fn check(&self, host: &str, addresses: &[SocketAddr]) -> Result<(), Refused> {
        if self.allowed.contains(host) {
            return Ok(());
        }
        match addresses.iter().find_map(|address| refusal(address.ip())) {
            Some(kind) => Err(Refused { host: host.to_owned(), kind }),
            None => Ok(()),
        }
    }
}

/// Finds the refusal in an error of the client, which wraps it.
pub(super) fn refused_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Refused> {
    let mut source: Option<&'a (dyn Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(allowed: &[&str]) -> Guarded {
        Guarded::new(Arc::new(SystemLookup), AllowedHosts::new(allowed))
    }

    #[test]
    fn one_private_address_among_public_ones_is_enough() {
        let addresses = ["1.1.1.1:0".parse().unwrap(), "10.0.0.1:0".parse().unwrap()];
        let refused = guarded(&[]).check("rebind.test", &addresses).unwrap_err();
        assert_eq!(refused, Refused { host: "rebind.test".into(), kind: "private" });
        guarded(&[]).check("public.test", &addresses[..1]).unwrap();
    }

    #[test]
    fn an_allowed_host_may_be_private_however_it_is_written() {
        let addresses = ["10.0.0.1:0".parse().unwrap()];
        guarded(&["Wiki.Internal."]).check("wiki.internal", &addresses).unwrap();
        guarded(&["wiki.internal"]).check("WIKI.internal.", &addresses).unwrap();
        assert!(guarded(&["wiki.internal"]).check("evil.wiki.internal", &addresses).is_err());
        assert!(AllowedHosts::new(["[::1]"]).contains("::1"));
        let all_below = AllowedHosts::new(["*.wiki.internal"]);
        assert!(all_below.contains("a.wiki.internal") && all_below.contains("a.b.wiki.internal"));
        assert!(!all_below.contains("wiki.internal") && !all_below.contains("evilwiki.internal"));
    }
}
