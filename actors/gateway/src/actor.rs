//! The service: takes messages in, shares commits among them, gives answers out.

use std::{cell::RefCell, collections::VecDeque, fmt, rc::Rc, sync::Arc};

use futures::future::join_all;
use soma_contract::{
    message::{AcceptError, Accepted, NewMessage},
    port::{
        live::{Live, LiveEvent},
        store::Store,
    },
};
use soma_runtime::{Answer, Health, Io, Message, Reply, Scope, Service, Starting};
use tokio::sync::oneshot;

use crate::{Config, Metrics, batch, commit, count::Counter};

/// Asks to accept a message that the edge has authorised, bounded and validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Accept(
    /// The message.
    pub NewMessage,
);

impl Message for Accept {
    type Result = Result<Accepted, AcceptError>;
}

/// Is told what was newly accepted, before the callers are. It must be quick: it is called on the
/// gateway's thread.
pub type AfterCommit = Arc<dyn Fn(&[Accepted]) + Send + Sync>;

/// What the gateway needs of the world.
#[derive(Clone)]
pub struct Ports {
    /// Where messages are stored.
    pub store: Arc<dyn Store>,
    /// Where readers of a session are told.
    pub live: Arc<dyn Live>,
    /// Where port calls run.
    pub io: Io,
    /// Who runs turns, or carries records to them.
    pub after_commit: AfterCommit,
}

impl fmt::Debug for Ports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ports").field("store", &self.store).finish_non_exhaustive()
    }
}

/// The service `gateway`.
#[derive(Debug)]
pub struct Gateway {
    desk: Rc<Desk>,
}

/// What the parts of one incarnation share.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) ports: Ports,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) counter: Counter,
    /// What the store said of the last commit, if it did not answer.
    pub(crate) trouble: RefCell<Option<String>>,
    queue: RefCell<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether a child commits batch after batch.
    pumped: bool,
}

/// A message that waits for its commit.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) message: NewMessage,
    pub(crate) answer: oneshot::Sender<Result<Accepted, AcceptError>>,
}

impl Gateway {
    /// Builds the service.
    pub fn new(config: Config, ports: Ports, metrics: Metrics) -> Self {
        let counter = Counter::default();
        let (trouble, queue) = (RefCell::default(), RefCell::default());
        Self { desk: Rc::new(Desk { ports, config, metrics, counter, trouble, queue }) }
    }
}

impl Service for Gateway {
    fn start(&mut self, scope: &Scope<Self>) -> Starting {
        scope.notify(CountBacklog);
        Starting::ready()
    }

    fn health(&self) -> Health {
        match self.desk.trouble.borrow().as_ref() {
            Some(trouble) => Health::degraded(trouble.clone()),
            None => Health::ok(),
        }
    }
}

impl Answer<Accept> for Gateway {
    fn answer(
        &mut self,
        Accept(message): Accept,
        scope: &Scope<Self>,
    ) -> Reply<Result<Accepted, AcceptError>> {
        let (answer, answered) = oneshot::channel();
        self.desk.push(Waiting { message, answer });
        pump(&self.desk, scope);
        let (desk, scope) = (Rc::clone(&self.desk), scope.clone());
        Reply::later(async move {
            if let Ok(answer) = answered.await {
                return answer;
            }
            // The child panicked over this batch. What waits behind it is not its fault.
            pump(&desk, &scope);
            Err(AcceptError::OutcomeUnknown("the commit was given up".to_owned()))
        })
    }
}

/// Begins to count the backlog, over and over.
struct CountBacklog;

impl Message for CountBacklog {
    type Result = ();
}

impl Answer<CountBacklog> for Gateway {
    fn answer(&mut self, _: CountBacklog, scope: &Scope<Self>) -> Reply<()> {
        let (desk, drain) = (Rc::clone(&self.desk), scope.draining());
        Reply::later(async move {
            while !drain.is_draining() {
                desk.counter.count(&desk).await;
                tokio::select! {
                    () = tokio::time::sleep(desk.config.backlog_period) => {}
                    () = drain.wait() => {}
                }
            }
        })
    }
}

impl Desk {
    fn push(&self, waiting: Waiting) {
        self.queue.borrow_mut().waiting.push_back(waiting);
        self.metrics.waiting.inc();
    }

    /// Takes the next batch; none: nobody pumps any more.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue.borrow_mut();
        let limit = self.config.max_batch;
        let batch = batch::take(&mut queue.waiting, limit, |waiting| &waiting.message);
        queue.pumped = !batch.is_empty();
        let left = i64::try_from(queue.waiting.len()).unwrap_or(i64::MAX);
        self.metrics.waiting.set(left);
        queue.pumped.then_some(batch)
    }
}

/// Makes sure that somebody commits while anything waits.
fn pump(desk: &Rc<Desk>, scope: &Scope<Gateway>) {
    let mut queue = desk.queue.borrow_mut();
    if queue.pumped || queue.waiting.is_empty() {
        return;
    }
    queue.pumped = true;
    let (desk, scope_of_child) = (Rc::clone(desk), scope.clone());
    let work = async move {
        let _pumping = Pumping(Rc::clone(&desk));
        while let Some(batch) = desk.next() {
            let accepted = commit::commit(&desk, batch).await;
            tell(&desk, &scope_of_child, accepted);
        }
    };
    scope.child("commit", work).detach();
}

/// Tells the readers of the sessions, beside the next commit.
fn tell(desk: &Rc<Desk>, scope: &Scope<Gateway>, accepted: Vec<Accepted>) {
    if accepted.is_empty() {
        return;
    }
    let (io, live) = (desk.ports.io.clone(), Arc::clone(&desk.ports.live));
    let deadline = desk.config.commit_deadline;
    let telling = async move {
        let tell = async move {
            let told = accepted
                .iter()
                .map(|one| live.publish(one.session_id, LiveEvent::Appended { seq: one.seq }));
            join_all(told).await;
        };
        if let Err(error) = io.call(deadline, tell).await {
            tracing::debug!(%error, "readers were not told; they poll");
        }
    };
    scope.child("tell", telling).detach();
}

/// Says that nobody pumps any more, also when the child panics.
struct Pumping(Rc<Desk>);

impl Drop for Pumping {
    fn drop(&mut self) {
        self.0.queue.borrow_mut().pumped = false;
    }
}
