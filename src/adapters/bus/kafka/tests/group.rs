//! What becomes of records when members of a group come and go.

use std::{
    collections::{BTreeSet, HashMap},
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::{super::consumer::KafkaConsumer, *};

/// Receives and acknowledges until every row was seen; returns the rows in their order of arrival.
async fn drain(consumer: &mut dyn Consumer, seen: &mut Vec<(SessionId, i64)>) {
    let records = consumer.receive(100, Duration::from_millis(50)).await.unwrap();
    seen.extend(records.iter().map(|record| (record.session_id.unwrap(), row_id(record))));
    consumer.acknowledge(&records).await.unwrap();
}

/// First occurrences of each session are in the order of its rows, and none is missing.
fn check(seen: &[(SessionId, i64)], rows: i64) {
    let mut last: HashMap<SessionId, i64> = HashMap::new();
    let mut all = BTreeSet::new();
    for (session_id, id) in seen {
        if all.insert(*id) {
            let before = last.insert(*session_id, *id);
            assert!(before.is_none_or(|before| before < *id), "{before:?} before {id}");
        }
    }
    assert_eq!(all, (0..rows).collect());
}

#[tokio::test]
async fn members_that_come_and_go_lose_no_record_and_keep_the_order() {
    let corner = Corner::new();
    let (here, there) = (corner.bus().await, corner.bus().await);
    let mut seen = Vec::new();
    let mut first = worker(&here);
    write(&here, &rows(0..100, 9)).await;
    while seen.len() < 100 {
        drain(&mut *first, &mut seen).await;
    }
    let mut second = worker(&there);
    write(&here, &rows(100..200, 9)).await;
    // Until both have a share.
    let mut of_second = Vec::new();
    let mut next = 200;
    while of_second.is_empty() {
        drain(&mut *first, &mut seen).await;
        drain(&mut *second, &mut of_second).await;
        write(&here, &rows(next..next + 9, 9)).await;
        next += 9;
    }
    // One leaves with records in hand.
    second.receive(5, Duration::from_millis(50)).await.unwrap();
    drop(second);
    seen.extend(of_second);
    let distinct = |seen: &[(SessionId, i64)]| {
        i64::try_from(seen.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len()).unwrap()
    };
    while distinct(&seen) < next {
        drain(&mut *first, &mut seen).await;
    }
    check(&seen, next);
}

#[tokio::test]
async fn what_a_killed_process_did_not_acknowledge_is_read_by_another() {
    if let Some(prefix) = env::var_os("SOMA_TEST_KILLED") {
        return be_killed(prefix.into_string().unwrap()).await;
    }
    let corner = Corner::new();
    let bus = corner.bus().await;
    write(&bus, &rows(0..3, 1)).await;
    let name = "adapters::bus::kafka::tests::group::\
                what_a_killed_process_did_not_acknowledge_is_read_by_another";
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("SOMA_TEST_KILLED", &corner.options.prefix)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.into_iter().any(|line| line.contains("has them in hand")));
    child.kill().unwrap();
    child.wait().unwrap();
    let records = receive(&mut *worker(&bus), 3).await;
    assert_eq!(records.iter().map(row_id).collect::<Vec<_>>(), [0, 1, 2]);
}

#[expect(clippy::print_stdout, reason = "the parent listens")]
async fn be_killed(prefix: String) {
    let corner = Corner::at(brokers(), prefix);
    let bus = corner.bus().await;
    let mut consumer = worker(&bus);
    receive(&mut *consumer, 3).await;
    println!("the child has them in hand");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_full_backlog_pauses_reading_and_loses_nothing() {
    let corner = Corner::new();
    let bus = corner.bus().await;
    write(&bus, &rows(0..3_000, 5)).await;
    let group = Group::ConversationWorker;
    let mut consumer =
        KafkaConsumer::start(group, &corner.options, Arc::clone(&bus.topics), &bus.readers);
    let desk = Arc::clone(&consumer.desk);
    let full = async {
        while !desk.backlog().is_full() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, full).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3_000 {
        drain(&mut consumer, &mut seen).await;
    }
    check(&seen, 3_000);
}

#[tokio::test]
async fn a_bus_that_closes_has_committed_what_was_acknowledged() {
    let corner = Corner::new();
    let bus = corner.bus().await;
    write(&bus, &rows(0..3, 1)).await;
    let mut consumer = worker(&bus);
    let records = receive(&mut *consumer, 3).await;
    consumer.acknowledge(&records[..2]).await.unwrap();
    drop(consumer);
    bus.close(LONG).await;
    let again = corner.bus().await;
    assert_eq!(row_id(&receive(&mut *worker(&again), 1).await[0]), 2);
}
