//! A bare log with group commit: no accept can be durable and do less.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use actix_web::{HttpResponse, web};
use tokio::sync::oneshot;

/// A record, and who waits for it.
struct Append {
    record: web::Bytes,
    durable: oneshot::Sender<()>,
}

/// The log; one thread writes it.
#[derive(Debug)]
pub(super) struct Log(Sender<Append>);

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || write(file, &receiver));
        Ok(Self(sender))
    }
}

/// Writes what has arrived, syncs once, tells all; what arrives meanwhile is the next batch.
fn write(mut file: File, records: &Receiver<Append>) -> io::Result<()> {
    let mut bytes = Vec::new();
    while let Ok(first) = records.recv() {
        let batch: Vec<Append> = std::iter::once(first).chain(records.try_iter()).collect();
        bytes.clear();
        for append in &batch {
            bytes.extend_from_slice(&(append.record.len() as u64).to_be_bytes());
            bytes.extend_from_slice(&append.record);
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        for append in batch {
            // A client that has gone needs no answer.
            append.durable.send(()).ok();
        }
    }
    Ok(())
}

/// `POST /v1/session/message`.
pub(super) async fn message(log: web::Data<Log>, record: web::Bytes) -> HttpResponse {
    let (durable, wait) = oneshot::channel();
    let sent = log.0.send(Append { record, durable });
    if sent.is_ok() && wait.await.is_ok() {
        HttpResponse::Accepted().content_type("application/json").body(r#"{"durable":true}"#)
    } else {
        HttpResponse::ServiceUnavailable().finish()
    }
}
