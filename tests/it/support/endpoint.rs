//! A scripted HTTP server: a model endpoint, a memory service, a page to fetch.

use std::{
    io,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::until;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) path: String,
    /// The body, if it was JSON.
    pub(crate) body: Value,
}

/// What the script says to a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A status and a JSON body.
    Json(u16, Value),
    /// A stream of server-sent events with this text.
    Events(String),
    /// Nothing, until the client is gone.
    Silence,
}

/// The server; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Endpoint {
    url: String,
    seen: Arc<Mutex<Vec<Request>>>,
    _serving: JoinSet<()>,
}

impl Endpoint {
    /// Starts a server that answers as the script says.
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, noted) = (Arc::new(script), Arc::clone(&seen));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (script, noted) = (Arc::clone(&script), Arc::clone(&noted));
                connections.spawn(async move {
                    // A client that goes away is its own business.
                    serve(socket, &*script, &noted).await.ok();
                });
            }
        });
        Self { url, seen, _serving: serving }
    }

    /// Starts a model endpoint; every chat is answered as the script says.
    pub(crate) async fn model(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(move |request| {
            if request.path.ends_with("/chat/completions") {
                script(request)
            } else {
                Reply::Json(200, json!({"data": [{"id": MODEL}]}))
            }
        })
        .await
    }

    /// Returns the base URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the requests so far whose path ends like this.
    pub(crate) fn seen(&self, path: &str) -> Vec<Request> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|request| request.path.ends_with(path)).cloned().collect()
    }

    /// Waits until a request whose path ends like this has come.
    pub(crate) async fn asked(&self, path: &str) {
        until(path, async || !self.seen(path).is_empty()).await;
    }
}

/// The name of the scripted model.
pub(crate) const MODEL: &str = "scripted";

/// A model's answer in words.
pub(crate) fn says(text: &str) -> Reply {
    chunks(&json!({"role": "assistant", "content": text}), "stop")
}

/// A model's answer that calls a tool. The id of the call follows from its arguments, so that a call
/// that is made anew can be told from the next one.
pub(crate) fn calls(tool: &str, arguments: &Value) -> Reply {
    let arguments = arguments.to_string();
    let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, arguments.as_bytes());
    let function = json!({"name": tool, "arguments": arguments});
    let call = json!({"index": 0, "id": id, "type": "function", "function": function});
    chunks(&json!({"role": "assistant", "tool_calls": [call]}), "tool_calls")
}

/// Returns what the tools have said since the user spoke last, as the model is told.
pub(crate) fn tool_messages(request: &Request) -> Vec<String> {
    let messages = request.body["messages"].as_array().unwrap();
    let since = messages.iter().rposition(|message| message["role"] == "user").unwrap();
    messages[since..]
        .iter()
        .filter(|message| message["role"] == "tool")
        .map(|message| message["content"].as_str().unwrap().to_owned())
        .collect()
}

fn chunks(delta: &Value, finish: &str) -> Reply {
    let chunk = |delta: &Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        json!({"id": "1", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]})
    };
    let (first, last) = (chunk(delta, Value::Null), chunk(&json!({}), json!(finish)));
    Reply::Events(format!("data: {first}\n\ndata: {last}\n\ndata: [DONE]\n\n"))
}

async fn serve(
    mut socket: TcpStream,
    script: &(dyn Fn(&Request) -> Reply + Send + Sync),
    seen: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let request = read(&mut socket).await?;
    let reply = script(&request);
    seen.lock().unwrap().push(request);
    let (status, kind, body) = match reply {
        Reply::Json(status, body) => (status, "application/json", body.to_string()),
        Reply::Events(text) => (200, "text/event-stream", text),
        Reply::Silence => {
            let mut rest = [0; 64];
            while socket.read(&mut rest).await? > 0 {}
            return Ok(());
        }
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body.as_bytes()).await?;
    socket.shutdown().await
}

async fn read(socket: &mut TcpStream) -> io::Result<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        match bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            Some(end) => break end,
            None => more(socket, &mut bytes).await?,
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
    });
    let mut body = bytes.split_off(end + 4);
    while body.len() < length.unwrap_or(0) {
        more(socket, &mut body).await?;
    }
    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    Ok(Request { path, body: serde_json::from_slice(&body).unwrap_or_default() })
}

async fn more(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    match socket.read_buf(bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
