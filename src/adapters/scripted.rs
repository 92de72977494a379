//! A server on real sockets that does what a test says: each connection is answered by the next
//! script, or as its request is understood.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// What the server does with one connection, after it has read the request.
#[derive(Debug, Clone)]
pub(in crate::adapters) enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends a piece again and again until the client is gone.
    Repeat(Vec<u8>, Duration),
    /// Breaks the connection off, so that the client sees a reset.
    Reset,
    /// Says nothing more and waits until the client is gone.
    Hang,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(in crate::adapters) struct Seen {
    pub(in crate::adapters) head: String,
    pub(in crate::adapters) body: Value,
}

/// The server; it ends when it is dropped.
#[derive(Debug)]
pub(in crate::adapters) struct Server {
    pub(in crate::adapters) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    gone: tokio::sync::watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

/// What is done with one connection, once its request is known.
type Answer = Box<dyn FnOnce(&Seen) -> Vec<Act> + Send>;

impl Server {
    /// Starts a server that follows these scripts, the last one over and over.
    pub(in crate::adapters) async fn start(scripts: Vec<Vec<Act>>) -> Self {
        let mut scripts = VecDeque::from(scripts);
        Self::run(move || {
            let script =
                if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() };
            Box::new(|_| script.unwrap_or_default())
        })
        .await
    }

    /// Starts a server that understands what it is asked.
    pub(in crate::adapters) async fn answering(
        answer: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let answer = Arc::new(answer);
        Self::run(move || {
            let answer = Arc::clone(&answer);
            Box::new(move |seen| answer(seen))
        })
        .await
    }

    async fn run(mut next: impl FnMut() -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (left, gone) = tokio::sync::watch::channel(0);
        let mut tasks = JoinSet::new();
        let noted = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let answer = next();
                let (noted, left) = (Arc::clone(&noted), left.clone());
                connections.spawn(async move {
                    let outcome = serve(socket, answer, &noted).await;
                    left.send_modify(|count| *count += 1);
                    outcome.ok();
                });
            }
        });
        Self { url, seen, gone, _tasks: tasks }
    }

    /// Returns the requests so far.
    pub(in crate::adapters) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until this many connections have ended.
    pub(in crate::adapters) async fn closed(&mut self, count: usize) {
        self.gone.wait_for(|gone| *gone >= count).await.unwrap();
    }
}

async fn serve(mut socket: TcpStream, answer: Answer, seen: &Mutex<Vec<Seen>>) -> io::Result<()> {
    let request = read_request(&mut socket).await?;
    let script = answer(&request);
    seen.lock().unwrap().push(request);
    for act in script {
        match act {
            Act::Send(bytes) => socket.write_all(&bytes).await?,
            Act::Repeat(bytes, pause) => loop {
                socket.write_all(&bytes).await?;
                if !pause.is_zero() {
                    sleep(pause).await;
                }
            },
            Act::Reset => {
                socket.set_zero_linger()?;
                return Ok(());
            }
            Act::Hang => {
                let mut rest = [0; 64];
                while socket.read(&mut rest).await? > 0 {}
            }
        }
    }
    socket.shutdown().await
}

async fn read_request(socket: &mut TcpStream) -> io::Result<Seen> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            bytes.drain(..end + 4);
            let length = content_length(&head);
            break (head, length);
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    while bytes.len() < length {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Seen { head, body: serde_json::from_slice(&bytes).unwrap_or_default() })
}

fn content_length(head: &str) -> usize {
    head.lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
        })
        .unwrap_or(0)
}

/// An answer with a body that ends with the connection.
pub(in crate::adapters) fn stream(body: &str) -> Act {
    answer("200 OK", "text/event-stream", body)
}

/// An answer with a status.
pub(in crate::adapters) fn status(status: &str, extra: &str, body: &str) -> Act {
    let length = body.len();
    Act::Send(
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\n{extra}Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes(),
    )
}

/// An answer of that type, its body ending with the connection.
pub(in crate::adapters) fn answer(status: &str, kind: &str, body: &str) -> Act {
    Act::Send(
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n{body}")
            .into_bytes(),
    )
}

/// The head of an answer in chunks: one that breaks off is seen to.
pub(in crate::adapters) fn chunked() -> Act {
    Act::Send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec(),
    )
}

/// One chunk.
pub(in crate::adapters) fn chunk(text: &str) -> Act {
    Act::Send(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes())
}
