//! One HTTP/1.1 connection, kept alive; as little work per request as can be.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const MAX_HEADERS: usize = 32;

/// A connection with at most one request under way.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer<'buffer> {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: &'buffer [u8],
    /// Whether the server takes no further request on this connection.
    pub(super) closes: bool,
}

/// What the head of an answer says.
#[derive(Debug, Clone, Copy)]
struct Head {
    status: u16,
    length: usize,
    body: usize,
    closes: bool,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) async fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a whole request and reads the whole answer.
    ///
    /// # Errors
    ///
    /// The operating system's; `InvalidData` for an answer that is not HTTP with a
    /// `Content-Length`.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let mut head = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if head.is_none() {
                head = parse(&self.buffer)?;
            }
            if let Some(head) = head.filter(|head| self.buffer.len() >= head.length + head.body) {
                let body = self.buffer.get(head.length..head.length + head.body);
                return Ok(Answer {
                    status: head.status,
                    body: body.unwrap_or_default(),
                    closes: head.closes,
                });
            }
        }
    }

    /// Asks for a path.
    ///
    /// # Errors
    ///
    /// As [`Self::exchange`].
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<Answer<'_>> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.exchange(request.as_bytes()).await
    }
}

/// Returns the head once it has arrived whole.
fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| invalid(&error.to_string()))?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let body = header("content-length").and_then(|text| text.trim().parse().ok());
    Ok(Some(Head {
        status: response.code.unwrap_or_default(),
        length,
        body: body.ok_or_else(|| invalid("an answer without `Content-Length`"))?,
        closes: header("connection").is_some_and(|text| text.eq_ignore_ascii_case("close")),
    }))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
