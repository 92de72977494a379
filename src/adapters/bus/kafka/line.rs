//! One producer and the thread that hears its reports.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Message,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig},
    types::RDKafkaErrorCode,
};
use soma_contract::port::bus::OutboxRow;
use tokio::{
    sync::{mpsc::UnboundedSender, oneshot},
    time::{Instant, timeout},
};

use super::{
    client::{complain, log},
    outcome::Outcome,
    settings::MESSAGE_TIMEOUT,
};

/// How long the thread waits for reports before it looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(100);
/// How long the end of a producer is waited for.
const END: Duration = Duration::from_secs(3);

/// Where the report on a record goes.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The record's place among the rows of its call.
    pub(super) place: usize,
    /// Who waits; nobody, if the call was given up.
    pub(super) tell: UnboundedSender<(usize, Outcome)>,
}

#[derive(Debug)]
struct Reports;

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        complain(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let outcome = match result {
            Ok(_) => Outcome::Delivered,
            Err((error, record)) => {
                let partition = record.partition();
                tracing::debug!(%error, partition, "a record is not delivered");
                Outcome::of(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
            }
        };
        ticket.tell.send((ticket.place, outcome)).ok();
    }
}

/// A producer. Dropping it drops what it holds; its thread ends it, as that may take a while.
pub(super) struct Line {
    client: Arc<BaseProducer<Reports>>,
    unwanted: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl fmt::Debug for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Line {
    pub(super) fn open(config: &ClientConfig) -> Result<Self, KafkaError> {
        let client: Arc<BaseProducer<Reports>> = Arc::new(config.create_with_context(Reports)?);
        let unwanted = Arc::new(AtomicBool::new(false));
        let (end, ended) = oneshot::channel();
        let served = (Arc::clone(&client), Arc::clone(&unwanted));
        thread::Builder::new()
            .name("kafka-producer".to_owned())
            .spawn(move || {
                serve(served.0, &served.1);
                end.send(()).ok();
            })
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { client, unwanted, ended })
    }

    /// Hands a record over; its report goes to the ticket.
    pub(super) fn send(
        &self,
        topic: &str,
        row: &OutboxRow,
        ticket: Ticket,
    ) -> Result<(), RDKafkaErrorCode> {
        let key = row.session_id.to_string();
        let headers =
            row.headers.iter().fold(
                OwnedHeaders::new_with_capacity(row.headers.len()),
                |headers, (key, value)| headers.insert(Header { key, value: Some(value) }),
            );
        let record = BaseRecord::with_opaque_to(topic, Box::new(ticket))
            .key(&key)
            .payload(&*row.payload)
            .headers(headers);
        self.client
            .send(record)
            .map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
    }

    /// Ends the producer and waits for that.
    pub(super) async fn close(self) {
        let Self { client, unwanted, ended } = self;
        unwanted.store(true, Ordering::Release);
        drop(client);
        timeout(END, ended).await.ok();
    }
}

/// Hears reports until the producer is no longer wanted.
fn serve(mut client: Arc<BaseProducer<Reports>>, unwanted: &AtomicBool) {
    let mut looked = Instant::now();
    while !unwanted.load(Ordering::Acquire) && Arc::strong_count(&client) > 1 {
        client.poll(TICK);
        if looked.elapsed() > MESSAGE_TIMEOUT {
            // This process was stopped for long enough to have lost its shards: whoever owns them
            // now may have written the same rows, and later ones.
            tracing::warn!("the process was stopped; what was not yet written is dropped");
            client.purge(PurgeConfig::default().queue().inflight());
        }
        looked = Instant::now();
    }
    // The last to let go waits for the library's threads, and that must not be a caller's.
    loop {
        client = match Arc::try_unwrap(client) {
            Ok(last) => return drop(last),
            Err(shared) => shared,
        };
        thread::park_timeout(TICK);
    }
}
