//! The live port on real servers: replicas, and what happens when Redis goes away.

mod away;
mod server;

use prometheus::Registry;
use rand::Rng;
use soma_contract::{
    Ids, TurnId,
    ids::RandomIds,
    live_suite,
    port::live::{Heard, TextPosition},
    testing::suite::live::LiveFactory,
};
use uuid::Uuid;

use super::*;
use crate::adapters::{live::local::text, servers};

/// Longer than anything takes on a busy machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_mins(1);

/// Replicas of one system, with names of its own.
#[derive(Debug)]
struct System {
    url: String,
    prefix: String,
    take_timeout: Duration,
}

impl System {
    /// A system on the shared server.
    fn shared() -> Self {
        Self::at(servers::address("SOMA_TEST_REDIS_URL", "redis://127.0.0.1:56379"))
    }

    fn at(url: String) -> Self {
        Self { url, prefix: format!("test-{}:", RandomIds.draw()), take_timeout: PATIENCE }
    }

    fn connecting(&self) -> Arc<RedisLive> {
        let options = Options {
            url: ServerUrl::new(&self.url),
            prefix: self.prefix.clone(),
            take_timeout: self.take_timeout,
        };
        let metrics = LiveMetrics::new(&Registry::new()).unwrap();
        Arc::new(RedisLive::connect(options, metrics, &Handle::current()).unwrap())
    }

    async fn replica(&self) -> Arc<RedisLive> {
        let live = self.connecting();
        let connected = timeout(PATIENCE, live.connected()).await;
        assert!(connected.is_ok(), "no redis answers at `{}`: run `make up`", self.url);
        live
    }

    /// A connection to look into the server with.
    async fn look(&self) -> redis::aio::MultiplexedConnection {
        let client = Client::open(self.url.as_str()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}

fn session(number: u128) -> SessionId {
    SessionId(Uuid::from_u128(number))
}

fn at(epoch: u64, step: u32, offset: u64) -> TextPosition {
    TextPosition { turn_id: TurnId::of(session(1), 1), epoch, step, offset }
}

fn piece(at: TextPosition, text: &str) -> LiveEvent {
    LiveEvent::Delta { at, text: text.to_owned() }
}

const fn appended(seq: u64) -> LiveEvent {
    LiveEvent::Appended { seq }
}

#[derive(Debug)]
struct Shared;

#[async_trait]
impl LiveFactory for Shared {
    async fn fresh(&self) -> Arc<dyn Live> {
        System::shared().replica().await
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

mod suite {
    //! What every live port does.
    use super::*;

    live_suite!(Shared);
}

#[tokio::test]
async fn a_replica_hears_what_another_tells() {
    let system = System::shared();
    let (here, there) = (system.replica().await, system.replica().await);
    let mut reader = there.listen(session(1)).await.unwrap();
    let mut service = there.nudges().await;
    let told = [piece(at(1, 0, 0), "Grüß "), piece(at(1, 0, 7), "Gott"), appended(3)];
    for event in told {
        here.publish(session(1), event.clone()).await;
        assert_eq!(reader.next().await, Heard::Event(event));
    }
    let text = there.snapshot(session(1)).await.unwrap().map(|snapshot| snapshot.text);
    assert_eq!(text.as_deref(), Some("Grüß Gott"));
    let nudge = Nudge::Cancel { session_id: session(1), turn_id: TurnId::of(session(1), 1) };
    here.nudge(nudge.clone()).await;
    assert_eq!(service.next().await, Some(nudge));
    here.clear(session(1)).await;
    here.writer.flush().await.unwrap();
    assert_eq!(there.snapshot(session(1)).await, Ok(None));
}

#[tokio::test]
async fn systems_on_one_server_do_not_hear_each_other() {
    let (here, there) = (System::shared().replica().await, System::shared().replica().await);
    let mut reader = there.listen(session(1)).await.unwrap();
    here.publish(session(1), piece(at(1, 0, 0), "secret")).await;
    here.writer.flush().await.unwrap();
    there.publish(session(1), appended(1)).await;
    assert_eq!(reader.next().await, Heard::Event(appended(1)));
    assert_eq!(there.snapshot(session(1)).await, Ok(None));
}

#[tokio::test]
async fn replicas_share_a_rate_limit() {
    let system = System::shared();
    let replicas = [system.replica().await, system.replica().await];
    let start = tokio::time::Instant::now();
    let (per_second, burst) = (2, 20);
    let taking = (0..100).map(|number| {
        let live = Arc::clone(&replicas[number % 2]);
        async move { live.take("rate/public/ann", per_second, burst).await.unwrap() }
    });
    let taken = futures::future::join_all(taking).await;
    let granted = taken.iter().filter(|taken| **taken == Admission::Granted).count();
    let most = 20 + 2 * usize::try_from(start.elapsed().as_secs() + 1).unwrap();
    assert!(granted >= 20 && granted <= most, "{granted} of at most {most}");
    for limited in taken {
        let Admission::Limited(wait) = limited else { continue };
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(500), "{wait:?}");
    }
}

#[tokio::test]
async fn a_limit_that_was_lowered_holds_at_once() {
    let live = System::shared().replica().await;
    for _ in 0..100 {
        assert_eq!(live.take("a", 1, 100).await, Ok(Admission::Granted));
    }
    let Admission::Limited(wait) = live.take("a", 1, 1).await.unwrap() else { panic!("granted") };
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
}

#[tokio::test]
async fn every_key_expires() {
    let system = System::shared();
    let live = system.replica().await;
    live.publish(session(1), piece(at(1, 0, 0), "text")).await;
    live.publish(session(2), LiveEvent::Reset { at: at(1, 0, 0) }).await;
    live.take("rate/public/ann", 1, 10).await.unwrap();
    live.writer.flush().await.unwrap();
    let mut look = system.look().await;
    let pattern = format!("{}*", system.prefix);
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut look).await.unwrap();
    assert_eq!(keys.len(), 4, "{keys:?}");
    for key in keys {
        let life: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut look).await.unwrap();
        assert!(life > 0 && life <= 900_000, "`{key}` lives for {life} ms");
    }
}

/// The text is kept by the same rules in Redis as in one process.
#[tokio::test]
async fn any_pieces_make_the_same_text_as_in_one_process() {
    let live = System::shared().replica().await;
    let seed = rand::rng().random::<u64>();
    let mut chance = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let mut known = None;
    for number in 0..500 {
        let length = known.as_ref().map_or(0, |known: &Snapshot| known.text.len() as u64);
        let offset = [0, length, length, length, length + 1][chance.random_range(0..5)];
        let mut at = known.as_ref().map_or_else(|| at(1, 0, 0), |known| known.at);
        if chance.random_range(0..5) == 0 {
            (at.epoch, at.step) =
                (number / 100 + chance.random_range(0..2), chance.random_range(0..2));
        }
        if chance.random_range(0..20) == 0 {
            at.turn_id = TurnId::of(session(1), chance.random_range(1..3));
        }
        at.offset = offset;
        let event = match chance.random_range(0..10) {
            0 => LiveEvent::Reset { at },
            _ => piece(at, ["", "a", "ü", "two words"][chance.random_range(0..4)]),
        };
        text::follow(&mut known, &event);
        live.publish(session(1), event.clone()).await;
        assert_eq!(live.snapshot(session(1)).await.unwrap(), known, "{event:?}, seed {seed}");
    }
}

#[tokio::test]
async fn a_reader_that_is_told_nothing_leaves_no_trace() {
    let system = System::shared();
    let live = system.replica().await;
    for _ in 0..3 {
        let readers =
            [live.listen(session(1)).await.unwrap(), live.listen(session(1)).await.unwrap()];
        drop(readers);
    }
    // The next reader is served after the last one has left.
    drop(live.listen(session(2)).await.unwrap());
    let mut reader = live.listen(session(3)).await.unwrap();
    live.publish(session(3), appended(1)).await;
    assert_eq!(reader.next().await, Heard::Event(appended(1)));
    let pattern = format!("{}live:*", system.prefix);
    let mut channels = redis::cmd("PUBSUB");
    channels.arg("CHANNELS").arg(pattern);
    let channels: Vec<String> = channels.query_async(&mut system.look().await).await.unwrap();
    assert_eq!(channels, [live.names.room(session(3))]);
}

#[test]
fn an_address_that_is_none_is_told_without_its_password() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let options = Options {
        url: ServerUrl::new("http://user:hunter2@redis"),
        prefix: String::new(),
        take_timeout: PATIENCE,
    };
    let metrics = LiveMetrics::new(&Registry::new()).unwrap();
    let error = RedisLive::connect(options, metrics, runtime.handle()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}
