//! The adapter against a server that behaves as SomaBrain does, and against ones that fail.

mod brain;

use serde_json::json;
use soma_contract::{
    EventId, SessionId, memory_suite,
    testing::{
        FakeClock, FakeStore, SeqIds, sample,
        suite::memory::{MemoryFactory, MemoryWorld},
    },
};
use uuid::Uuid;

use self::brain::{Brain, Version, header, json_of};
use super::*;
use crate::adapters::scripted::{Act, Server, status};

/// Longer than anything takes on a busy machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_mins(1);

fn settings(url: &str) -> Settings {
    Settings {
        base_url: ServerUrl::new(url),
        api_key: Some(Secret::new("the key")),
        universe: Some("u".to_owned()),
        namespace: "wm".to_owned(),
        timeout: PATIENCE,
    }
}

fn somabrain(url: &str) -> SomaBrain {
    SomaBrain::new(settings(url), Arc::new(SeqIds::new())).unwrap()
}

fn put(number: u128, content: &str) -> MemoryWrite {
    let mut write = sample::put(Uuid::from_u128(number), EventId(Uuid::from_u128(number)), content);
    write.memory.session_id = Some(SessionId(Uuid::from_u128(7)));
    write.memory.version = 1;
    write
}

fn query(text: &str) -> MemoryQuery {
    MemoryQuery { text: text.to_owned(), limit: 10, ..MemoryQuery::default() }
}

async fn remembered(script: Vec<Act>) -> Result<Receipt, MemoryError> {
    let server = Server::start(vec![script]).await;
    somabrain(&server.url).remember(&put(1, "tea"), "key").await
}

mod suite {
    //! What every memory service does, with the routes of today and those of before.
    use super::*;

    #[derive(Debug)]
    struct Brains(Version);

    /// A service with the server that it talks to.
    #[derive(Debug)]
    struct Both {
        somabrain: SomaBrain,
        _brain: Brain,
    }

    #[async_trait]
    impl MemoryService for Both {
        async fn remember(&self, write: &MemoryWrite, key: &str) -> Result<Receipt, MemoryError> {
            self.somabrain.remember(write, key).await
        }

        async fn recall(
            &self,
            tenant: &TenantId,
            query: &MemoryQuery,
        ) -> Result<Vec<Recalled>, MemoryError> {
            self.somabrain.recall(tenant, query).await
        }

        async fn ping(&self) -> Result<(), MemoryError> {
            self.somabrain.ping().await
        }
    }

    #[async_trait]
    impl MemoryFactory for Brains {
        async fn fresh(&self) -> MemoryWorld {
            let brain = Brain::start(self.0).await;
            let service = Both { somabrain: somabrain(&brain.server.url), _brain: brain };
            let store = Arc::new(FakeStore::new(Arc::new(FakeClock::default())));
            MemoryWorld { service: Arc::new(service), store }
        }
    }

    mod now {
        use super::*;

        memory_suite!(Brains(Version::Now));
    }

    mod before {
        use super::*;

        memory_suite!(Brains(Version::Before));
    }
}

#[tokio::test]
async fn a_write_says_who_it_is_for_and_repeats_its_key() {
    let brain = Brain::start(Version::Now).await;
    let somabrain = somabrain(&format!("{}/", brain.server.url));
    let first = somabrain.remember(&put(1, "tea"), "public/1/1").await.unwrap();
    let again = somabrain.remember(&put(1, "tea"), "public/1/1").await.unwrap();
    assert_eq!(first, again);
    assert_eq!(first.coordinate.as_deref(), Some("[0.5,1.0]"));
    assert_eq!(brain.kept.lock().unwrap().done, 1);
    let seen = brain.server.seen();
    for seen in &seen {
        assert_eq!(header(seen, "Idempotency-Key"), "public/1/1");
        assert_eq!(header(seen, "X-Tenant-ID"), "public");
        assert_eq!(header(seen, "Authorization"), "Bearer the key");
    }
    assert_eq!(seen[0].body, seen[1].body, "nothing in it is of the moment");
    assert_ne!(header(&seen[0], "X-Request-ID"), header(&seen[1], "X-Request-ID"));
}

#[tokio::test]
async fn a_memory_that_the_server_does_not_know_is_forgotten_already() {
    let brain = Brain::start(Version::Now).await;
    let somabrain = somabrain(&brain.server.url);
    let delete = MemoryWrite { op: MemoryOp::Delete, ..put(1, "") };
    assert_eq!(somabrain.remember(&delete, "k").await, Ok(Receipt::default()));
}

#[tokio::test]
async fn a_server_without_a_way_to_forget_is_not_taken_for_one_that_forgot() {
    let nowhere = vec![json_of("404 Not Found", &json!({"detail": "Not Found"}))];
    let server = Server::start(vec![nowhere]).await;
    let delete = MemoryWrite { op: MemoryOp::Delete, ..put(1, "") };
    let outcome = somabrain(&server.url).remember(&delete, "k").await;
    assert!(matches!(outcome, Err(MemoryError::Unavailable(_))), "{outcome:?}");
}

#[tokio::test]
async fn only_the_record_itself_can_be_refused_for_ever() {
    let invalid = json!({"detail": [{"loc": ["body", "value"], "msg": "too long"}]});
    let refused = remembered(vec![json_of("422 Unprocessable Entity", &invalid)]).await;
    let Err(MemoryError::Refused(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("too long"), "{reason}");
    for (script, told) in [
        (vec![status("401 Unauthorized", "", "who are you")], "answered 401"),
        (vec![status("404 Not Found", "", "nothing here")], "answered 404"),
        (vec![status("500 Internal Server Error", "", "")], "answered 500"),
        (vec![status("200 OK", "", "<html>")], "answered 200 OK: `<html>`"),
        (vec![Act::Reset], "the connection broke"),
    ] {
        let outcome = remembered(script).await;
        let Err(MemoryError::Unavailable(reason)) = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(told), "{reason}");
    }
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_by_those_calls_only() {
    let server = Server::answering(|seen| {
        let is_recall = seen.head.starts_with("POST /memory/recall");
        let found = json_of("200 OK", &json!({"results": []}));
        vec![if is_recall { found } else { status("503 Service Unavailable", "", "") }]
    })
    .await;
    let somabrain = somabrain(&server.url);
    for _ in 0..5 {
        assert!(somabrain.remember(&put(1, "tea"), "k").await.is_err());
    }
    assert_eq!(server.seen().len(), 3);
    assert_eq!(somabrain.recall(&TenantId::public(), &query("tea")).await, Ok(Vec::new()));
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_refusal_shows_a_server_that_works() {
    let refused = vec![json_of("400 Bad Request", &json!({"detail": "no"}))];
    let server = Server::start(vec![refused]).await;
    let somabrain = somabrain(&server.url);
    for _ in 0..5 {
        let outcome = somabrain.remember(&put(1, "tea"), "k").await;
        assert!(matches!(outcome, Err(MemoryError::Refused(_))), "{outcome:?}");
    }
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_is_left_alone_at_once() {
    let busy = vec![status("429 Too Many Requests", "Retry-After: 60\r\n", "")];
    let server = Server::start(vec![busy]).await;
    let somabrain = somabrain(&server.url);
    assert!(somabrain.remember(&put(1, "tea"), "k").await.is_err());
    let outcome = somabrain.remember(&put(1, "tea"), "k").await;
    let Err(MemoryError::Unavailable(reason)) = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("left alone"), "{reason}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn callers_without_time_open_the_breaker_too() {
    let server = Server::start(vec![vec![Act::Hang]]).await;
    let somabrain = somabrain(&server.url);
    let (tenant, query) = (TenantId::public(), query("tea"));
    for _ in 0..3 {
        let recalling = somabrain.recall(&tenant, &query);
        assert!(tokio::time::timeout(Duration::from_millis(50), recalling).await.is_err());
    }
    let outcome = somabrain.recall(&tenant, &query).await;
    assert!(matches!(outcome, Err(MemoryError::Unavailable(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_server_that_is_slow_or_away_is_unavailable() {
    let server = Server::start(vec![vec![Act::Hang]]).await;
    let timeout = Duration::from_millis(50);
    let slow = Settings { timeout, ..settings(&server.url) };
    let slow = SomaBrain::new(slow, Arc::new(SeqIds::new())).unwrap();
    let outcome = slow.remember(&put(1, "tea"), "k").await;
    let Err(MemoryError::Unavailable(reason)) = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("in time"), "{reason}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = somabrain(&format!("http://me:hunter2@{free}"));
    let Err(MemoryError::Unavailable(reason)) = away.ping().await else { panic!("it answered") };
    assert!(reason.contains("cannot be reached") && !reason.contains("hunter2"), "{reason}");
}

#[tokio::test]
async fn a_server_that_is_not_well_says_so() {
    let sick = vec![json_of("200 OK", &json!({"status": "degraded"}))];
    let server = Server::start(vec![sick]).await;
    let outcome = somabrain(&server.url).ping().await;
    let Err(MemoryError::Unavailable(reason)) = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("degraded"), "{reason}");
}

#[test]
fn an_address_or_key_that_is_none_is_refused_without_being_told() {
    let ids: Arc<dyn Ids> = Arc::new(SeqIds::new());
    let address = SomaBrain::new(settings("ftp://me:hunter2@brain"), Arc::clone(&ids)).unwrap_err();
    assert!(!format!("{address} {address:?}").contains("hunter2"), "{address:?}");
    let key = Settings { api_key: Some(Secret::new("hunter2\n")), ..settings("http://brain") };
    let key = SomaBrain::new(key, ids).unwrap_err();
    assert!(matches!(key, SetupError::Key), "{key:?}");
}
