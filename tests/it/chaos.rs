//! What goes wrong in production goes wrong here, under load: processes that die or stand still,
//! servers that are away, data that is gone. Whatever it is, every message that was answered 202
//! ends in exactly one terminal event, in order, and nothing runs twice that may not.

use std::time::Duration;

use tokio::time::sleep;
use uuid::Uuid;

use crate::support::{
    Platform, Storm,
    cluster::{Servers, World},
    endpoint::{Endpoint, calls, says, tool_messages},
    log::check_log,
    until,
};

const SESSIONS: usize = 20;
const MESSAGES: usize = 12;
/// Long enough for work to be under way.
const A_WHILE: Duration = Duration::from_secs(2);

/// Two replicas whose servers of these names are the test's own, with words slow enough for
/// trouble to hit answers in the middle.
async fn platform(own: &[&str]) -> Platform {
    let servers = if own.is_empty() { Servers::shared() } else { Servers::with_own(own).await };
    let setup = World::within(servers).await.setup();
    setup.set("SA01_MODEL_OFFLINE_WORD_DELAY", "20ms").platform().await
}

fn servers(platform: &Platform) -> Servers {
    platform.setup.world().expect("a cluster").servers.clone()
}

/// Makes trouble again and again while clients talk, and checks what they were promised.
async fn survives(platform: &mut Platform, mut trouble: impl AsyncFnMut(&mut Platform, usize)) {
    let mut storm = Storm::begin(platform, SESSIONS, MESSAGES);
    let mut rounds = 0;
    while !storm.is_over() || rounds < 2 {
        sleep(A_WHILE).await;
        trouble(platform, rounds).await;
        rounds += 1;
    }
    platform.restore().await;
    storm.check(platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_replica_is_killed_every_few_seconds() {
    let mut platform = platform(&[]).await;
    survives(&mut platform, async |platform, round| {
        platform.kill(round % 2);
        sleep(A_WHILE).await;
        platform.start_replica(round % 2).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_refuses_no_request() {
    let mut platform = platform(&[]).await;
    platform.setup.put("SA01_SHUTDOWN_LAME_DUCK", "5s");
    for replica in 0..2 {
        platform.kill(replica);
    }
    platform.restore().await;
    let mut storm = Storm::begin(&platform, SESSIONS, MESSAGES);
    for replica in 0..2 {
        platform.replica(replica).signal("TERM");
        assert_eq!(platform.ended(replica).await.code(), Some(0));
        platform.start_replica(replica).await.unwrap();
    }
    storm.end().await;
    assert_eq!(storm.repeats(), 0, "a client was sent away");
    storm.check(&platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_away_for_five_seconds() {
    let mut platform = platform(&["postgres"]).await;
    let servers = servers(&platform);
    survives(&mut platform, async |_, round| {
        // In order but at once, and as after a loss of power.
        servers.does(if round % 2 == 0 { "stop" } else { "kill" }, "postgres").await;
        sleep(Duration::from_secs(5)).await;
        servers.does("start", "postgres").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_is_away_for_a_while() {
    let platform = platform(&["kafka"]).await;
    let servers = servers(&platform);
    let mut storm = Storm::begin(&platform, SESSIONS, MESSAGES);
    sleep(A_WHILE).await;
    servers.does("stop", "kafka").await;
    // The bus is on no message's way: every one is taken and answered without it.
    let api = platform.api();
    let sent = api.send(Uuid::now_v7(), "hello").await;
    api.terminal(sent.event_id).await;
    storm.end().await;
    servers.does("start", "kafka").await;
    storm.check(&platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_of_kafka_is_lost() {
    let mut platform = platform(&["kafka"]).await;
    let servers = servers(&platform);
    survives(&mut platform, async |_, round| {
        if round < 2 {
            servers.does("wipe", "kafka").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_forgets_everything_and_dies() {
    let mut platform = platform(&["redis"]).await;
    let servers = servers(&platform);
    survives(&mut platform, async |_, round| {
        if round % 2 == 0 {
            let client = redis::Client::open(servers.redis.clone()).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
        } else {
            servers.does("kill", "redis").await;
            sleep(A_WHILE).await;
            servers.does("start", "redis").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_opa_nothing_is_allowed_and_what_was_taken_waits() {
    let mut platform = platform(&["opa"]).await;
    let servers = servers(&platform);
    survives(&mut platform, async |platform, _| {
        servers.does("stop", "opa").await;
        let api = platform.api();
        until("the policy engine is missed", async || {
            let key = Uuid::now_v7().to_string();
            let body = serde_json::json!({"message": "hello"});
            let path = "/v1/session/message";
            let answer = api.try_call(reqwest::Method::POST, path, Some(body), Some(&key)).await;
            answer.is_some_and(|(status, problem)| {
                status == 503 && problem["code"] == "policy_unavailable"
            })
        })
        .await;
        sleep(A_WHILE).await;
        servers.does("start", "opa").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_stands_still_for_longer_than_its_leases() {
    let mut platform = platform(&[]).await;
    survives(&mut platform, async |platform, round| {
        let frozen = round % 2;
        platform.replica(frozen).signal("STOP");
        // Longer than the lease of a turn (3 s) and that of a shard (10 s).
        sleep(Duration::from_secs(15)).await;
        platform.replica(frozen).signal("CONT");
        if platform.replica(frozen).has_ended() {
            // Its watchdog may have found it hanging.
            platform.kill(frozen);
            platform.start_replica(frozen).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_in_the_middle_of_a_long_turn_disturbs_nothing() {
    // The turn calls a tool twelve times and takes longer than a rebalance.
    let model = Endpoint::model(|request| match tool_messages(request).len() {
        n if n < 12 => {
            calls("file_append", &serde_json::json!({"path": "l.txt", "line": n.to_string()}))
        }
        _ => says("done"),
    })
    .await;
    let setup = World::fresh().await.setup().with_model(&model);
    let mut platform = setup.platform().await;
    let api = platform.api();
    let session = Uuid::now_v7();
    let sent = api.send(session, "count to twelve").await;
    until("the turn is under way", async || platform.setup.file("l.txt").is_some()).await;
    // Whoever runs it, one of the two leaves in order and comes back: two rebalances.
    for replica in 0..2 {
        platform.replica(replica).signal("TERM");
        platform.ended(replica).await;
        platform.start_replica(replica).await.unwrap();
    }
    let api = platform.api();
    let terminal = api.terminal(sent.event_id).await;
    assert_eq!(terminal["message"], "done", "{terminal}");
    check_log(&api.events(session).await, &[sent]);
    let lines: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    assert_eq!(platform.setup.file("l.txt").unwrap().lines().collect::<Vec<_>>(), lines);
}
