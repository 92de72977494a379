//! `http_fetch`: reads a page of the public web as text.

use std::{
    error::Error,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{CONTENT_TYPE, LOCATION},
    redirect,
};
use serde::Deserialize;
use serde_json::{Value, json};
use soma_contract::tool::{Effect, ToolSpec};
use soma_tools::{CallContext, Tool, ToolError, ToolOutput, arguments_as};

use super::{
    address::refusal,
    contained::Parsers,
    extract::{Format, by_mime, text_of},
    resolver::{AllowedHosts, Guarded, Lookup, Refused, refused_in},
};

/// The most bytes of a body that are read, after decompression.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// The most characters of text that go back.
const MAX_CHARS: usize = 20_000;
/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// The longest that connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Answers `{url, status, content_type, text, truncated}` of a `GET`.
#[derive(Debug, Clone)]
pub struct HttpFetch {
    guarded: Guarded,
    allowed: AllowedHosts,
    timeout: Duration,
    parsers: Parsers,
    client: Arc<OnceLock<Result<Client, String>>>,
}

impl HttpFetch {
    /// Fetches from public hosts, and from these allowed ones wherever they are, each within
    /// `timeout`, redirects included. The client is made at the first use.
    pub fn new(
        lookup: Arc<dyn Lookup>,
        allowed: AllowedHosts,
        timeout: Duration,
        parsers: Parsers,
    ) -> Self {
        let guarded = Guarded::new(lookup, allowed.clone());
        Self { guarded, allowed, timeout, parsers, client: Arc::default() }
    }
}

#[derive(Deserialize)]
struct Arguments {
    url: String,
}

#[async_trait]
impl Tool for HttpFetch {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "http_fetch".to_owned(),
            description: "Fetches an http or https page of the public web by GET and returns its \
                          text. Redirects are followed."
                .to_owned(),
            parameters: json!({
                "type": "object",
                "properties": {"url": {
                    "type": "string", "maxLength": 4096, "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://",
                    "description": "The whole URL, with http:// or https://."
                }},
                "required": ["url"],
                "additionalProperties": false
            }),
            effect: Effect::Pure,
            timeout: self.timeout,
            max_output_bytes: 64 * 1024,
        }
    }

    async fn run(&self, arguments: Value, _call: CallContext) -> Result<ToolOutput, ToolError> {
        let arguments: Arguments = arguments_as(arguments)?;
        let response = self.follow(&arguments.url).await?;
        let (url, status) = (response.url().clone(), response.status());
        let content_type = content_type_of(&response);
        let format = textual(&content_type)?;
        let (body, body_cut) = bounded_body(response).await?;
        let mime = content_type.clone();
        let (text, text_cut) = self
            .parsers
            .run(format.as_str(), move || text_of(format, &mime, &body, MAX_CHARS))
            .await?;
        Ok(json!({
            "url": url.as_str(),
            "status": status.as_u16(),
            "content_type": content_type,
            "text": text,
            "truncated": body_cut || text_cut,
        })
        .into())
    }
}

impl HttpFetch {
    /// Follows redirects by hand, so that every hop is checked like the first.
    async fn follow(&self, url: &str) -> Result<Response, ToolError> {
        let client = self.client()?;
        let mut url = parsed(url)?;
        for _ in 0..=MAX_REDIRECTS {
            self.check(&url)?;
            let response =
                client.get(url.clone()).send().await.map_err(|error| worded(&url, &error))?;
            match next_hop(&response)? {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(ToolError::Failed(format!("more than {MAX_REDIRECTS} redirects, the last to `{url}`")))
    }

    /// Checks what the resolver does not see: scheme, credentials, and addresses written out.
    fn check(&self, url: &Url) -> Result<(), ToolError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ToolError::Failed(format!("`{url}` is neither http nor https")));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ToolError::Failed("a URL with a user name is not fetched".to_owned()));
        }
        let Some(host) = url.host_str() else {
            return Err(ToolError::Failed(format!("`{url}` names no host")));
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>().ok().and_then(refusal) {
            Some(kind) if !self.allowed.contains(host) => {
                Err(ToolError::failed(Refused { host: host.to_owned(), kind }))
            }
            _ => Ok(()),
        }
    }

    fn client(&self) -> Result<&Client, ToolError> {
        let made = self.client.get_or_init(|| {
            crate::adapters::tls::install();
            Client::builder()
                .user_agent(concat!("somaagent/", env!("CARGO_PKG_VERSION")))
                .redirect(redirect::Policy::none())
                // A proxy would look names up itself.
                .no_proxy()
                .dns_resolver(Arc::new(self.guarded.clone()))
                // Each request is checked anew.
                .pool_max_idle_per_host(0)
                .connect_timeout(CONNECT_TIME)
                .timeout(self.timeout)
                .build()
                .map_err(|error| error.to_string())
        });
        made.as_ref().map_err(ToolError::failed)
    }
}

fn parsed(url: &str) -> Result<Url, ToolError> {
    Url::parse(url).map_err(|error| ToolError::Failed(format!("`{url}` is no URL: {error}")))
}

/// Returns where a redirect leads.
fn next_hop(response: &Response) -> Result<Option<Url>, ToolError> {
    let redirects = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !redirects.contains(&response.status()) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
    let next = location.to_str().ok().and_then(|location| response.url().join(location).ok());
    next.map(Some).ok_or_else(|| {
        ToolError::Failed(format!("`{}` redirects to something that is no URL", response.url()))
    })
}

fn content_type_of(response: &Response) -> String {
    let header = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // RFC 9110 lets a reader guess; text is the one thing it could be used as.
    header.unwrap_or("text/plain").to_owned()
}

fn textual(content_type: &str) -> Result<Format, ToolError> {
    match by_mime(content_type) {
        Some(format @ (Format::Text | Format::Html)) => Ok(format),
        _ => Err(ToolError::Failed(format!("the page is `{content_type}`, not text"))),
    }
}

/// Reads at most [`MAX_BYTES`]; tells whether there was more.
async fn bounded_body(mut response: Response) -> Result<(Vec<u8>, bool), ToolError> {
    let url = response.url().clone();
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| worded(&url, &error))? {
        let room = MAX_BYTES.saturating_sub(body.len());
        body.extend(piece.iter().take(room));
        if piece.len() > room {
            return Ok((body, true));
        }
    }
    Ok((body, false))
}

/// Words an error of the client: a refusal as itself, anything else down to its cause.
fn worded(url: &Url, error: &reqwest::Error) -> ToolError {
    if let Some(refused) = refused_in(error) {
        return ToolError::failed(refused);
    }
    if error.is_timeout() {
        return ToolError::Failed(format!("`{url}` did not answer in time"));
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    ToolError::Failed(format!("`{url}` cannot be fetched: {cause}"))
}

#[cfg(test)]
mod tests;
