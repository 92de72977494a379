//! The generator against servers that misbehave in known ways.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::load::{Load, Messages, Report, run};

const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";
const STALL: Duration = Duration::from_millis(200);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Reads one request; its body begins after an empty line and ends with a brace.
async fn request(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    while !seen.ends_with(b"}") {
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

async fn server(listener: TcpListener, answer: impl Fn(u64) -> &'static str, stall: Duration) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut count = 0;
    while request(&mut stream).await {
        if count == 0 {
            sleep(stall).await;
        }
        stream.write_all(answer(count).as_bytes()).await.unwrap();
        count += 1;
    }
}

async fn load(answer: impl Fn(u64) -> &'static str, stall: Duration, load: Load) -> Report {
    let (listener, address) = listener().await;
    let messages = Messages::accepted();
    tokio::select! {
        () = server(listener, answer, stall) => panic!("the server ended first"),
        report = run(address, &messages, load) => report.unwrap(),
    }
}

#[tokio::test]
async fn a_stall_is_charged_to_every_request_that_was_due_meanwhile() {
    let rate = Load::Rate { per_second: 100, duration: STALL, clients: 1 };
    let report = load(|_| ACCEPTED, STALL, rate).await;
    assert_eq!((report.answered(), report.failed()), (20, 0));
    // Those due in the first half of the stall waited for at least its second half.
    assert!(report.latency(1.0) >= STALL);
    assert!(report.latency(0.5) >= STALL / 2, "{report}");
}

#[tokio::test]
async fn clients_charge_a_stall_to_the_one_that_waited() {
    let clients = Load::Clients { clients: 1, duration: Duration::from_hours(1), most: 20 };
    let report = load(|_| ACCEPTED, STALL, clients).await;
    assert_eq!(report.answered(), 20);
    assert!(report.latency(1.0) >= STALL);
    assert!(report.latency(0.5) < report.latency(1.0));
}

#[tokio::test]
async fn other_answers_are_counted_by_status_and_not_timed() {
    let answer = |count| match count {
        3 => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        _ => ACCEPTED,
    };
    let clients = Load::Clients { clients: 1, duration: Duration::from_hours(1), most: 5 };
    let report = load(answer, Duration::ZERO, clients).await;
    assert_eq!((report.answered(), report.failed()), (4, 1));
    assert_eq!(report.faults.get("status 503"), Some(&1));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_failure_each_time() {
    let (listener, address) = listener().await;
    drop(listener);
    let clients = Load::Clients { clients: 1, duration: Duration::from_hours(1), most: 3 };
    let report = run(address, &Messages::accepted(), clients).await.unwrap();
    assert_eq!((report.answered(), report.failed()), (0, 3));
}

#[tokio::test]
async fn no_other_machine_is_loaded() {
    let clients = Load::Clients { clients: 1, duration: Duration::ZERO, most: 1 };
    let server = "192.0.2.1:80".parse().unwrap();
    assert!(run(server, &Messages::accepted(), clients).await.is_err());
}
