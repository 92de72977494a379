//! Writes rows to the brokers.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::types::RDKafkaErrorCode;
use soma_contract::port::bus::{Delivery, OutboxRow};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time::{Duration, Instant, timeout_at},
};

use super::{
    line::{Line, Ticket},
    outcome::{Outcome, Travelled, all_failed},
    settings::{MESSAGE_TIMEOUT, Options},
    topics::Topics,
};

/// How long all reports of a batch may take: each record times out by itself, seen once a second.
const BATCH_TIMEOUT: Duration = MESSAGE_TIMEOUT.saturating_add(Duration::from_secs(2));
/// The most rows that are sent alone in one call, so that the lease on their shards outlives it.
const MOST_ALONE: usize = 50;

/// Hands rows to a producer that is replaced after each failure.
#[derive(Debug)]
pub(super) struct Producer {
    options: Options,
    topics: Arc<Topics>,
    line: Mutex<Option<Arc<Line>>>,
    /// A batch was refused, and it is not known for which of its records.
    alone: AtomicBool,
}

impl Producer {
    pub(super) const fn new(options: Options, topics: Arc<Topics>) -> Self {
        Self { options, topics, line: Mutex::new(None), alone: AtomicBool::new(false) }
    }

    /// Writes rows in their order and returns what became of each.
    pub(super) async fn publish(&self, rows: &[OutboxRow]) -> Vec<Delivery> {
        let line = match self.line() {
            Ok(line) => line,
            Err(reason) => return all_failed(rows.len(), &reason),
        };
        let travelled = if self.alone.swap(false, Ordering::AcqRel) {
            Travelled::Alone
        } else {
            Travelled::InBatch
        };
        let mut batch = Batch::new(&line, &self.options, rows, travelled);
        batch.send().await;
        batch.hear_all().await;
        self.conclude(&batch, &line);
        batch.deliveries
    }

    /// Lets the producer go; what it still holds is dropped.
    pub(super) async fn retire(&self) {
        let line = self.lock().take();
        if let Some(line) = line.and_then(Arc::into_inner) {
            line.close().await;
        }
    }

    fn conclude(&self, batch: &Batch<'_>, line: &Arc<Line>) {
        if batch.unfit && batch.travelled == Travelled::InBatch {
            self.alone.store(true, Ordering::Release);
        }
        if batch.failed {
            self.topics.doubt();
            // Nobody else's: another call may have replaced it already.
            self.lock().take_if(|current| Arc::ptr_eq(current, line));
        }
    }

    fn line(&self) -> Result<Arc<Line>, String> {
        let mut line = self.lock();
        if let Some(line) = &*line {
            return Ok(Arc::clone(line));
        }
        let opened = Line::open(&self.options.producer(self.topics.limit()));
        let opened = Arc::new(opened.map_err(|error| error.to_string())?);
        *line = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Line>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows of one call, and what is known of them.
struct Batch<'a> {
    line: &'a Line,
    options: &'a Options,
    rows: &'a [OutboxRow],
    travelled: Travelled,
    deliveries: Vec<Delivery>,
    tell: UnboundedSender<(usize, Outcome)>,
    told: UnboundedReceiver<(usize, Outcome)>,
    outstanding: usize,
    deadline: Instant,
    failed: bool,
    unfit: bool,
}

impl<'a> Batch<'a> {
    fn new(
        line: &'a Line,
        options: &'a Options,
        rows: &'a [OutboxRow],
        travelled: Travelled,
    ) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            line,
            options,
            rows,
            travelled,
            deliveries: all_failed(rows.len(), "the brokers did not report on it"),
            tell,
            told,
            outstanding: 0,
            deadline: Instant::now() + BATCH_TIMEOUT,
            failed: false,
            unfit: false,
        }
    }

    /// Hands rows over until one cannot be: those behind it might overtake it.
    async fn send(&mut self) {
        let most = if self.travelled == Travelled::Alone { MOST_ALONE } else { usize::MAX };
        for (place, row) in self.rows.iter().enumerate().take(most) {
            if !self.send_one(place, row).await {
                return;
            }
            if self.travelled == Travelled::Alone {
                self.hear_all().await;
            }
        }
    }

    /// Hands one row over, as soon as there is room; returns whether the next may follow.
    async fn send_one(&mut self, place: usize, row: &OutboxRow) -> bool {
        loop {
            let ticket = Ticket { place, tell: self.tell.clone() };
            match self.line.send(&self.options.topic(row.topic), row, ticket) {
                Ok(()) => {
                    self.outstanding += 1;
                    return true;
                }
                Err(RDKafkaErrorCode::QueueFull) if self.outstanding > 0 => {
                    if !self.hear_one().await {
                        return false;
                    }
                }
                // By the client's own measure, that of the record by itself.
                Err(error @ RDKafkaErrorCode::MessageSizeTooLarge) => {
                    self.settle(place, Delivery::Refused(error.to_string()));
                    return true;
                }
                Err(error) => {
                    self.failed = true;
                    self.settle(place, Delivery::Failed(error.to_string()));
                    return false;
                }
            }
        }
    }

    async fn hear_all(&mut self) {
        while self.outstanding > 0 && self.hear_one().await {}
    }

    /// Waits for one report; returns whether there was one in time.
    async fn hear_one(&mut self) -> bool {
        let Ok(Some((place, outcome))) = timeout_at(self.deadline, self.told.recv()).await else {
            (self.failed, self.outstanding) = (true, 0);
            return false;
        };
        self.outstanding -= 1;
        self.failed |= matches!(outcome, Outcome::Failed(_));
        self.unfit |= matches!(outcome, Outcome::Unfit(_));
        self.settle(place, outcome.delivery(self.travelled));
        true
    }

    fn settle(&mut self, place: usize, delivery: Delivery) {
        if let Some(settled) = self.deliveries.get_mut(place) {
            *settled = delivery;
        }
    }
}
