//! A whole edge on a real socket, over fakes. Every answer is checked against `/openapi.json`.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use soma_config::Secret;
use soma_contract::{
    Clock, Owner, SessionId, TurnId,
    message::NewMessage,
    persona::Persona,
    port::{
        live::{Live, LiveEvent, TextPosition},
        policy::Policy,
        store::{ClaimedTurn, Store, Transcript, Turns},
    },
    testing::{FakeCatalog, FakeClock, FakeLive, FakeModel, FakePolicy, sample, store::FakeStore},
    tool::Effect,
};
use soma_gateway::Accept;
use soma_runtime::{Io, Outlet};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::described::check;
use crate::http::{
    ComponentHealth, Edge, HealthReport, HealthSource, HealthStatus, Parts, RestartError, Server,
    Settings, Supervision, serve_admin, serve_api,
};

const SECRET: &str = "a secret of the tests with 32 bytes or more";
/// Longer than anything takes on a busy machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a test may change before the edge is built.
pub(super) struct Setup {
    pub(super) settings: Settings,
    pub(super) policy: Arc<FakePolicy>,
    pub(super) accept: Option<Outlet<Accept>>,
    pub(super) personas: Vec<Persona>,
    pub(super) store: Arc<FakeStore>,
}

impl Setup {
    /// Asks everybody for a token.
    pub(super) fn locked(&mut self) {
        self.settings.auth.required = true;
        self.settings.auth.jwt_secret = Some(Secret::new(SECRET));
    }
}

/// An edge that is served.
pub(super) struct Site {
    pub(super) edge: Edge,
    pub(super) store: Arc<FakeStore>,
    pub(super) live: Arc<FakeLive>,
    pub(super) clock: Arc<FakeClock>,
    pub(super) server: Server,
    pub(super) admin: Server,
    pub(super) log_levels: Arc<Mutex<Vec<String>>>,
    pub(super) health: Arc<FakeHealth>,
    http: reqwest::Client,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
    pub(super) body: Value,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// Asserts a refusal or failure with this code.
    #[track_caller]
    pub(super) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
    }
}

/// A request to be sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub(super) token: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Option<Vec<u8>>,
}

impl Ask {
    pub(super) fn json(body: &Value) -> Self {
        Self::default().header("content-type", "application/json").body(body.to_string())
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(super) fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }
}

impl Site {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Setup)) -> Self {
        crate::adapters::tls::install();
        let clock = Arc::new(FakeClock::new());
        let mut setup = Setup {
            settings: Settings::default(),
            policy: Arc::new(FakePolicy::allowing()),
            accept: None,
            personas: Vec::new(),
            store: Arc::new(FakeStore::new(Arc::clone(&clock) as Arc<dyn Clock>)),
        };
        setup.settings.rate.per_second = 0;
        change(&mut setup);
        let live = Arc::new(FakeLive::new(Arc::clone(&clock) as Arc<dyn Clock>));
        let accept = setup.accept.unwrap_or_else(|| gateway(&setup.store, &live));
        let log_levels = Arc::new(Mutex::new(Vec::new()));
        let levels = Arc::clone(&log_levels);
        let health = Arc::new(FakeHealth::default());
        let tools = vec![FakeCatalog::tool("echo", Effect::Pure)];
        let edge = Edge::new(Parts {
            store: Arc::clone(&setup.store) as Arc<dyn Store>,
            live: Arc::clone(&live) as Arc<dyn Live>,
            policy: setup.policy as Arc<dyn Policy>,
            tools: Arc::new(FakeCatalog::new(tools)),
            model: Arc::new(FakeModel::new()),
            accept,
            supervision: Arc::new(FakeTree),
            health: Arc::clone(&health) as Arc<dyn HealthSource>,
            set_log_level: Arc::new(move |level: &str| {
                if level == "loud" {
                    return Err("no such level".to_owned());
                }
                levels.lock().unwrap().push(level.to_owned());
                Ok(())
            }),
            personas: setup.personas.into(),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ids: Arc::new(soma_contract::ids::RandomIds),
            io: Io::new(2).unwrap(),
            registry: prometheus::Registry::new(),
            settings: setup.settings,
        })
        .unwrap();
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let server = serve_api(&edge, bind()).unwrap();
        let admin = serve_admin(&edge, bind()).unwrap();
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        Self { edge, store: setup.store, live, clock, server, admin, log_levels, health, http }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    /// Sends a request and checks its answer against the description of the API.
    pub(super) async fn ask(&self, method: &str, path: &str, ask: Ask) -> Reply {
        let reply = self.ask_at(&self.url(path), method, ask).await;
        check(method, path, &reply);
        reply
    }

    /// Sends a request to any URL.
    pub(super) async fn ask_at(&self, url: &str, method: &str, ask: Ask) -> Reply {
        let response = self.send(url, method, ask).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Reply { status, headers, text, body }
    }

    async fn send(&self, url: &str, method: &str, ask: Ask) -> reqwest::Response {
        let mut request = self.http.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        if let Some(token) = ask.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        if let Some(body) = ask.body {
            request = request.body(body);
        }
        request.send().await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, Ask::default()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, Ask::json(body)).await
    }

    /// Sends a message and returns what was accepted.
    pub(super) async fn say(&self, session: Option<&str>, text: &str) -> Value {
        let reply = self
            .post("/v1/session/message", &json!({"session_id": session, "message": text}))
            .await;
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.body
    }

    /// Opens a stream.
    pub(super) async fn stream(&self, method: &str, path: &str, ask: Ask) -> Stream {
        let ask = ask.header("accept", "text/event-stream");
        let response = self.send(&self.url(path), method, ask).await;
        assert_eq!(response.status(), StatusCode::OK);
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        Stream {
            headers: response.headers().clone(),
            bytes: Box::pin(response.bytes_stream()),
            text: String::new(),
        }
    }

    /// Claims the session's turn, as a worker would.
    pub(super) async fn claim(&self, accepted: &Value) -> ClaimedTurn {
        let session: SessionId = accepted["session_id"].as_str().unwrap().parse().unwrap();
        self.store.claim(&owner(), session).await.unwrap().unwrap()
    }

    /// Returns a session whose turn nobody has claimed.
    pub(super) async fn store_claimable(&self) -> Option<SessionId> {
        self.store.claimable(Duration::ZERO, 1).await.unwrap().pop()
    }

    /// Says a piece of a claimed turn's answer.
    pub(super) async fn piece(&self, claimed: &ClaimedTurn, offset: u64, text: &str) {
        let at =
            TextPosition { turn_id: claimed.turn.turn_id, epoch: claimed.epoch, step: 0, offset };
        let event = LiveEvent::Delta { at, text: text.to_owned() };
        self.live.publish(claimed.turn.session_id, event).await;
    }

    /// Ends a claimed turn with this answer.
    pub(super) async fn answer(&self, claimed: &ClaimedTurn, text: &str) {
        let mut ending = sample::done(claimed, text);
        ending.event = ending.event.with("usage", json!({"input_tokens": 3, "output_tokens": 2}));
        self.end(claimed, ending).await;
    }

    pub(super) async fn end(
        &self,
        claimed: &ClaimedTurn,
        ending: soma_contract::port::store::Ending,
    ) {
        let turn_id: TurnId = claimed.turn.turn_id;
        let appended = self.store.end(turn_id, claimed.epoch, ending).await.unwrap();
        let session = claimed.turn.session_id;
        self.live.clear(session).await;
        self.live.publish(session, LiveEvent::Appended { seq: appended.seq }).await;
    }

    /// Answers every message from now on with `you said: …`, in pieces.
    pub(super) fn answer_all(self: &Arc<Self>) {
        let site = Arc::clone(self);
        self.edge.parts().io.handle().spawn(async move {
            let mut changes = site.store.changes();
            loop {
                let claimable = site.store.claimable(Duration::ZERO, 10).await.unwrap_or_default();
                for session in claimable {
                    if let Ok(Some(claimed)) = site.store.claim(&owner(), session).await {
                        let text = format!("you said: {}", claimed.event.message);
                        site.piece(&claimed, 0, "you ").await;
                        site.piece(&claimed, 4, "said: ").await;
                        site.answer(&claimed, &text).await;
                    }
                }
                changes.mark_unchanged();
                if site.store.claimable(Duration::ZERO, 1).await.is_ok_and(|some| some.is_empty())
                    && changes.changed().await.is_err()
                {
                    return;
                }
            }
        });
    }

    /// Sends bytes as they are and returns everything that comes back until the end.
    pub(super) async fn raw(&self, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.server.address()).await.unwrap();
        // The server may answer and close before it has read all.
        drop(socket.write_all(bytes).await);
        let mut answer = Vec::new();
        drop(tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap());
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn owner() -> Owner {
    Owner("test".to_owned())
}

/// A token of a subject, with scopes.
pub(super) fn token(tenant: &str, subject: &str, scope: &str) -> String {
    sign(&json!({"tenant": tenant, "sub": subject, "scope": scope, "exp": 4_102_444_800_u64}))
}

/// A token with these claims.
pub(super) fn sign(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

/// What the gateway service does, without the service.
pub(super) fn gateway(store: &Arc<FakeStore>, live: &Arc<FakeLive>) -> Outlet<Accept> {
    let (store, live) = (Arc::clone(store), Arc::clone(live));
    Outlet::from_fn(move |Accept(message)| {
        let (store, live) = (Arc::clone(&store), Arc::clone(&live));
        async move { Ok(commit(&store, Some(&live), message).await) }
    })
}

pub(super) async fn commit(
    store: &FakeStore,
    live: Option<&FakeLive>,
    message: NewMessage,
) -> <Accept as soma_runtime::Message>::Result {
    let accepted = store.accept(vec![message]).await.remove(0)?;
    if let Some(live) = live {
        live.publish(accepted.session_id, LiveEvent::Appended { seq: accepted.seq }).await;
    }
    Ok(accepted)
}

/// A stream of server-sent events.
pub(super) struct Stream {
    pub(super) headers: HeaderMap,
    bytes: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Stream {
    /// Returns the next frame as it is; `None` at the end.
    pub(super) async fn raw(&mut self) -> Option<String> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(frame);
            }
            let piece = tokio::time::timeout(PATIENCE, self.bytes.next()).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&piece.ok()?).unwrap());
        }
    }

    /// Returns the id and the JSON of the next frame that has data.
    pub(super) async fn next(&mut self) -> Option<(Option<u64>, Value)> {
        loop {
            let frame = self.raw().await?;
            let line = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
            let id = line("id: ").map(|id| id.parse().unwrap());
            if let Some(data) = line("data: ") {
                return Some((
                    id,
                    serde_json::from_str(data).unwrap_or_else(|_| Value::from(data)),
                ));
            }
        }
    }

    /// Returns the next event of this type, passing over others.
    pub(super) async fn until(&mut self, kind: &str) -> (Option<u64>, Value) {
        loop {
            let (id, event) = self.next().await.unwrap();
            if event["type"] == kind {
                return (id, event);
            }
        }
    }
}

/// A tree of one service.
#[derive(Debug)]
struct FakeTree;

#[async_trait]
impl Supervision for FakeTree {
    fn tree(&self) -> Value {
        json!({"services": [{"name": "gateway", "state": "ready"}], "leaked_threads": 0})
    }

    fn service(&self, name: &str) -> Option<Value> {
        (name == "gateway").then(|| json!({"name": "gateway", "state": "ready"}))
    }

    async fn restart(&self, name: &str) -> Result<(), RestartError> {
        match name {
            "gateway" => Ok(()),
            "panics" => panic!("as told"),
            "stuck" => Err(RestartError::Failed("it does not come up".to_owned())),
            other => Err(RestartError::Unknown(other.to_owned())),
        }
    }
}

/// Health that tests set.
#[derive(Debug, Default)]
pub(super) struct FakeHealth {
    /// What is wrong.
    pub(super) fault: Mutex<Option<String>>,
    /// What a report waits for, blocking its thread: the end of the channel.
    pub(super) hold: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
    /// The reports that were asked for.
    pub(super) reports: std::sync::atomic::AtomicUsize,
}

impl FakeHealth {
    fn outcome(&self) -> Result<(), String> {
        self.fault.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl HealthSource for FakeHealth {
    fn live(&self) -> Result<(), String> {
        self.outcome()
    }

    fn started(&self) -> Result<(), String> {
        self.outcome()
    }

    fn ready(&self) -> Result<(), String> {
        self.outcome()
    }

    fn report(&self) -> HealthReport {
        self.reports.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if let Some(hold) = &*self.hold.lock().unwrap() {
            hold.recv().ok();
        }
        let error = self.outcome().err();
        let status = if error.is_some() { HealthStatus::Down } else { HealthStatus::Ok };
        let component =
            ComponentHealth { status, latency_ms: Some(0.5), since: None, last_error: error };
        HealthReport { status, components: [("store".to_owned(), component)].into() }
    }
}
