//! Whatever is killed, every message that was answered 202 ends in exactly one terminal event.

use std::time::Duration;

use crate::support::{Engines, Server, Storm, on_all_engines};

const SESSIONS: usize = 50;
const MESSAGES: usize = 10;

on_all_engines!(five_hundred_messages_survive_a_sigkill_every_second_or_two);

async fn five_hundred_messages_survive_a_sigkill_every_second_or_two(engines: Engines) {
    // Words come slowly enough for kills to hit answers in the middle.
    let setup = engines.setup().await.set("SA01_MODEL_OFFLINE_WORD_DELAY", "2ms");
    let mut platform = setup.platform().await;
    let mut storm = Storm::begin(&platform, SESSIONS, MESSAGES);
    let (mut kills, mut inherited) = (0, 0);
    while !storm.is_over() || kills < 5 {
        tokio::time::sleep(Duration::from_millis(1_000 + 250 * (kills % 5))).await;
        let victim = usize::try_from(kills).unwrap() % platform.count();
        platform.kill(victim);
        platform.start_replica(victim).await.unwrap();
        inherited += taken_over(platform.replica(victim));
        kills += 1;
    }
    assert!(storm.repeats() > 0, "no client had to repeat a message");
    storm.check(&platform).await;
    if engines.is_embedded() {
        assert!(inherited > 0, "no kill hit a running turn");
    }
}

/// Turns that this start took over from a dead process.
fn taken_over(server: &Server) -> u64 {
    let lines = server.logged("inherited");
    lines.iter().filter_map(|line| line["turns"].as_u64()).sum()
}
