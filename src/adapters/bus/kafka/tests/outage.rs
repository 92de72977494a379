//! A broker of the test's own, which goes away and comes back.

use std::{net::TcpListener, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::*;

/// A broker of `scripts/servers.sh` with ports and data of its own.
struct OwnBroker {
    dir: TempDir,
    port: u16,
    controller_port: u16,
}

impl OwnBroker {
    fn start() -> Self {
        // Both are held until both are known, so that they differ.
        let held = [0; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        let [port, controller_port] = held.each_ref().map(|held| held.local_addr().unwrap().port());
        drop(held);
        let broker = Self { dir: tempfile::tempdir().unwrap(), port, controller_port };
        broker.servers(&["up", "kafka"]);
        broker
    }

    fn servers(&self, arguments: &[&str]) {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/servers.sh");
        let status = Command::new(script)
            .args(arguments)
            .env("SOMA_SERVERS_DIR", self.dir.path())
            .env("SOMA_TEST_KAFKA_PORT", self.port.to_string())
            .env("SOMA_TEST_KAFKA_CONTROLLER_PORT", self.controller_port.to_string())
            .status()
            .unwrap();
        assert!(status.success(), "servers.sh {arguments:?}");
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        self.servers(&["down"]);
    }
}

/// Hands rows over as the relay does, until all are delivered.
async fn relay(bus: &KafkaBus, rows: &[OutboxRow]) {
    let mut left = rows.to_vec();
    while !left.is_empty() {
        let mut deliveries = bus.publish(&left).await.into_iter();
        let mut stopped = false;
        left.retain(|_| {
            stopped |= deliveries.next().unwrap() != Delivery::Delivered;
            stopped
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_away_or_lost_everything_is_used_again() {
    let broker = OwnBroker::start();
    let corner = Corner::at(format!("127.0.0.1:{}", broker.port), String::new());
    let bus = corner.bus().await;
    let mut consumer = worker(&bus);
    write(&bus, &rows(0..5, 1)).await;
    let records = receive(&mut *consumer, 5).await;
    consumer.acknowledge(&records).await.unwrap();

    broker.servers(&["kill", "kafka"]);
    let deliveries = bus.publish(&rows(5..10, 1)).await;
    assert!(deliveries.iter().all(|delivery| matches!(delivery, Delivery::Failed(_))));
    assert!(bus.ping().await.is_err());
    broker.servers(&["start", "kafka"]);
    relay(&bus, &rows(5..10, 1)).await;
    assert_eq!(until(&mut *consumer, 9).await, [5, 6, 7, 8, 9]);

    broker.servers(&["wipe", "kafka"]);
    relay(&bus, &rows(10..15, 1)).await;
    assert_eq!(until(&mut *consumer, 14).await, [10, 11, 12, 13, 14]);
    bus.ping().await.unwrap();

    broker.servers(&["stop", "kafka"]);
    drop(consumer);
    tokio::time::timeout(LONG, bus.close(LONG)).await.unwrap();
    std::mem::forget(corner);
}

/// Receives until this row came; returns the new rows in their order. Faults on the way are told
/// and pass; what was read before may come again.
async fn until(consumer: &mut dyn Consumer, last: i64) -> Vec<i64> {
    let mut ids: Vec<i64> = Vec::new();
    let receiving = async {
        while ids.last() != Some(&last) {
            let Ok(records) = consumer.receive(100, LONG).await else { continue };
            ids.extend(records.iter().map(row_id));
            consumer.acknowledge(&records).await.unwrap();
        }
    };
    tokio::time::timeout(LONG, receiving).await.unwrap();
    let first_new = last - 4;
    let mut new: Vec<i64> = ids.into_iter().filter(|id| *id >= first_new).collect();
    let mut seen = std::collections::BTreeSet::new();
    new.retain(|id| seen.insert(*id));
    new
}
