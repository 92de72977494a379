//! Against real sockets: names that resolve as the test says, servers that say what it wants.

use std::{collections::HashMap, io, net::SocketAddr, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::adapters::tools::testing::call_of;

/// Answers every request with one text and remembers the first lines.
#[derive(Debug, Clone)]
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::task::spawn_local(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let answer = answer(head.lines().next().unwrap_or_default());
                seen.lock().unwrap().push(head);
                // The client may have read enough.
                socket.write_all(&answer).await.ok();
                socket.shutdown().await.ok();
            }
        });
        Self { address, requests }
    }

    fn seen(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn page(content_type: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

fn redirect_to(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

/// Answers look-ups in order, the last one for ever.
#[derive(Debug, Default)]
struct Names {
    answers: Mutex<HashMap<String, Vec<&'static str>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    fn of(names: &[(&str, &[&'static str])]) -> Arc<Self> {
        let answers = names.iter().map(|(name, answers)| ((*name).to_owned(), answers.to_vec()));
        Arc::new(Self { answers: Mutex::new(answers.collect()), asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let mut answers = self.answers.lock().unwrap();
        let Some(answers) = answers.get_mut(name) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such name"));
        };
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
        Ok(vec![SocketAddr::new(answer.parse().unwrap(), 0)])
    }
}

fn tool(names: Arc<Names>, allowed: &[&str]) -> HttpFetch {
    HttpFetch::new(names, AllowedHosts::new(allowed), Duration::from_mins(1), Parsers::new(2))
}

async fn fetch(tool: &HttpFetch, url: &str) -> Result<Value, ToolError> {
    tool.run(json!({ "url": url }), call_of("acme")).await.map(|output| output.value)
}

async fn refusal_of(tool: &HttpFetch, url: &str) -> String {
    fetch(tool, url).await.unwrap_err().to_string()
}

#[actix_rt::test]
async fn a_page_of_an_allowed_host_is_read_as_text() {
    let server =
        Server::answering(|_| page("text/html", "<h1>Hi</h1><p>there &lt;you&gt;</p>")).await;
    let names = Names::of(&[("wiki.test", &["127.0.0.1"])]);
    let tool = tool(Arc::clone(&names), &["wiki.test"]);
    let url = format!("http://wiki.test:{}/a?b=c", server.address.port());
    let value = fetch(&tool, &url).await.unwrap();
    assert_eq!(value["text"], "# Hi\n\nthere <you>");
    assert_eq!(value["status"], 200);
    assert_eq!(value["url"], url.as_str());
    assert_eq!(value["truncated"], false);
    let request = server.seen().remove(0);
    assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: wiki.test:{}", server.address.port())), "{request}");
    assert!(!request.to_lowercase().contains("authorization"), "{request}");
}

#[actix_rt::test]
async fn a_private_name_is_refused_and_not_connected_to() {
    let server = Server::answering(|_| page("text/plain", "secret")).await;
    let names = Names::of(&[("inside.test", &["127.0.0.1"])]);
    let tool = tool(names, &["other.test"]);
    let url = format!("http://inside.test:{}/", server.address.port());
    let refused = refusal_of(&tool, &url).await;
    assert!(refused.contains("`inside.test` is not on the public internet (loopback"), "{refused}");
    assert!(server.seen().is_empty());
}

#[actix_rt::test]
async fn literal_addresses_are_refused_however_they_are_written() {
    let server = Server::answering(|_| page("text/plain", "secret")).await;
    let port = server.address.port();
    let tool = tool(Names::of(&[]), &[]);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "169.254.169.254",
        "10.1.2.3",
        "100.64.0.1",
        "[fd00:ec2::254]",
        "[fe80::1]",
    ] {
        let refused = refusal_of(&tool, &format!("http://{host}:{port}/")).await;
        assert!(refused.contains("not on the public internet"), "{host}: {refused}");
    }
    assert!(server.seen().is_empty());
}

#[actix_rt::test]
async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
    let server = Server::answering(|_| page("text/plain", "secret")).await;
    // Public at the first look-up, private at any later one.
    let names = Names::of(&[("rebind.test", &["192.0.2.1", "127.0.0.1"])]);
    let tool = tool(Arc::clone(&names), &[]);
    let url = format!("http://rebind.test:{}/", server.address.port());
    assert!(fetch(&tool, &url).await.is_err());
    assert_eq!(names.asked(), ["rebind.test"]);
    assert!(refusal_of(&tool, &url).await.contains("loopback"));
    assert!(server.seen().is_empty());
}

#[actix_rt::test]
async fn a_redirect_is_followed_only_to_where_it_may_lead() {
    let inside = Server::answering(|_| page("text/plain", "secret")).await;
    let target = format!("http://127.0.0.1:{}/", inside.address.port());
    let server = Server::answering(move |line| match line.split(' ').nth(1) {
        Some("/in") => redirect_to(&target),
        Some("/file") => redirect_to("file:///etc/passwd"),
        Some("/name") => redirect_to("http://inside.test/"),
        Some("/loop") => redirect_to("/loop"),
        Some("/on") => redirect_to("/end"),
        _ => page("text/plain", "the end"),
    })
    .await;
    let names = Names::of(&[("wiki.test", &["127.0.0.1"]), ("inside.test", &["10.0.0.1"])]);
    let tool = tool(names, &["wiki.test"]);
    let base = format!("http://wiki.test:{}", server.address.port());
    assert!(refusal_of(&tool, &format!("{base}/in")).await.contains("loopback"));
    assert!(refusal_of(&tool, &format!("{base}/name")).await.contains("private"));
    assert!(refusal_of(&tool, &format!("{base}/file")).await.contains("neither http nor https"));
    assert!(refusal_of(&tool, &format!("{base}/loop")).await.contains("more than 5 redirects"));
    assert!(inside.seen().is_empty());
    let value = fetch(&tool, &format!("{base}/on")).await.unwrap();
    assert_eq!(value["text"], "the end");
    assert_eq!(value["url"], format!("{base}/end"));
}

#[actix_rt::test]
async fn a_body_without_end_is_cut() {
    let server =
        Server::answering(|_| page("text/plain", &"0123456789".repeat(MAX_BYTES / 5))).await;
    let names = Names::of(&[("wiki.test", &["127.0.0.1"])]);
    let tool = tool(names, &["wiki.test"]);
    let url = format!("http://wiki.test:{}/", server.address.port());
    let value = fetch(&tool, &url).await.unwrap();
    assert_eq!(value["truncated"], true);
    assert_eq!(value["text"].as_str().unwrap().len(), MAX_CHARS);
}

#[actix_rt::test]
async fn what_is_no_text_is_refused_in_words() {
    let server = Server::answering(|_| page("image/png", "PNG")).await;
    let names = Names::of(&[("wiki.test", &["127.0.0.1"])]);
    let tool = tool(names, &["wiki.test"]);
    let url = format!("http://wiki.test:{}/", server.address.port());
    assert_eq!(refusal_of(&tool, &url).await, "the page is `image/png`, not text");
    let userinfo = format!("http://ann:pw@wiki.test:{}/", server.address.port());
    assert!(refusal_of(&tool, &userinfo).await.contains("user name"));
    assert!(refusal_of(&tool, "http://nowhere.test/").await.contains("no such name"));
    assert!(refusal_of(&tool, "http://").await.contains("no URL"));
}
