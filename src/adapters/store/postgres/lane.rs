//! Group commit: requests of one kind that came while earlier ones were committed are done
//! together, in one transaction.
//!
//! A set that fails before its COMMIT is done again one by one, so that only the guilty request
//! fails. A COMMIT that is sent and not answered is an unknown outcome for everybody in it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use soma_contract::port::store::{StoreError, StoreResult};
use sqlx::PgConnection;
use tokio::{
    runtime::Handle,
    sync::{Mutex, mpsc, oneshot},
};

use super::{
    engine::{Engine, Terms, Tries, finish},
    fault::Fault,
};

/// Calls that may wait for the next commit; beyond it callers wait to be queued.
const QUEUE: usize = 1_024;
/// Calls that one commit takes at most.
const BATCH: usize = 256;
/// Commits of one kind under way at the same time: one is executed while another is made durable.
const WORKERS: usize = 2;
/// How long a transaction may take: longer than every limit that the server keeps to. A server that
/// cannot even be heard to break it off must not hold up the lane.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kind of write that is done as one set for everybody who asked since the last commit.
pub(super) trait Operation: Sized + Send + Sync + 'static {
    /// What each request is answered.
    type Answer: Send + 'static;

    /// Names its failpoints.
    const NAME: &'static str;

    /// Does all requests, in their order. An `Err` undoes and repeats them one by one; what is
    /// wrong with a single request belongs into its answer.
    fn run(
        connection: &mut PgConnection,
        terms: Terms,
        requests: &[Self],
    ) -> impl Future<Output = Result<Vec<StoreResult<Self::Answer>>, Fault>> + Send;
}

/// Where the answers to a caller's requests go.
type Reply<O> = oneshot::Sender<Vec<StoreResult<<O as Operation>::Answer>>>;

/// The queue of one kind of write.
#[derive(Debug)]
pub(super) struct Lane<O: Operation> {
    queue: mpsc::Sender<(Vec<O>, Reply<O>)>,
}

impl<O: Operation> Lane<O> {
    /// Starts the lane on the I/O runtime. It ends with its last handle.
    pub(super) fn start(io: &Handle, engine: &Arc<Engine>) -> Self {
        let (queue, calls) = mpsc::channel(QUEUE);
        let calls = Arc::new(Mutex::new(calls));
        for _ in 0..WORKERS {
            io.spawn(serve(Arc::clone(engine), Arc::clone(&calls)));
        }
        Self { queue }
    }

    /// Has requests done, with one answer each in their order.
    pub(super) async fn submit(&self, requests: Vec<O>) -> Vec<StoreResult<O::Answer>> {
        let count = requests.len();
        let (reply, answers) = oneshot::channel();
        let all = |error: StoreError| (0..count).map(|_| Err(error.clone())).collect();
        if self.queue.send((requests, reply)).await.is_err() {
            return all(StoreError::Unavailable("the store is closed".to_owned()));
        }
        answers.await.unwrap_or_else(|_| all(lost()))
    }

    /// Has one request done.
    pub(super) async fn submit_one(&self, request: O) -> StoreResult<O::Answer> {
        self.submit(vec![request]).await.pop().unwrap_or_else(|| Err(lost()))
    }
}

fn lost() -> StoreError {
    StoreError::OutcomeUnknown("the write was given up".to_owned())
}

/// What is queued, for whichever worker is free.
type Calls<O> = Arc<Mutex<mpsc::Receiver<(Vec<O>, Reply<O>)>>>;

async fn serve<O: Operation>(engine: Arc<Engine>, calls: Calls<O>) {
    let mut taken = Vec::with_capacity(BATCH);
    while calls.lock().await.recv_many(&mut taken, BATCH).await > 0 {
        let mut requests = Vec::with_capacity(taken.len());
        let mut replies = Vec::with_capacity(taken.len());
        for (mine, reply) in taken.drain(..) {
            replies.push((mine.len(), reply));
            requests.extend(mine);
        }
        let mut answers = commit(&engine, &requests).await.into_iter();
        for (count, reply) in replies {
            // A caller that has gone needs no answer.
            reply.send(answers.by_ref().take(count).collect()).ok();
        }
    }
}

async fn commit<O: Operation>(engine: &Engine, requests: &[O]) -> Vec<StoreResult<O::Answer>> {
    let fault = match persist(engine, requests).await {
        Ok(answers) => return answers,
        Err(fault) => fault,
    };
    if requests.len() > 1 && fault.may_be_of_one() {
        tracing::debug!(operation = O::NAME, %fault, "repeating a set one by one");
        return one_by_one(engine, requests).await;
    }
    let error = StoreError::from(fault);
    requests.iter().map(|_| Err(error.clone())).collect()
}

/// Does each request in a transaction of its own. What is nobody's fault is everybody's: nobody waits
/// for a server that is away as often as there are requests.
async fn one_by_one<O: Operation>(engine: &Engine, requests: &[O]) -> Vec<StoreResult<O::Answer>> {
    let mut answers = Vec::with_capacity(requests.len());
    let mut away: Option<StoreError> = None;
    for request in requests {
        if let Some(error) = &away {
            answers.push(Err(error.clone()));
            continue;
        }
        let done = persist(engine, std::slice::from_ref(request)).await;
        answers.push(match done {
            Ok(mut answers) => answers.pop().unwrap_or_else(|| Err(lost())),
            Err(fault) => {
                let of_one = fault.may_be_of_one();
                let error = StoreError::from(fault);
                away = (!of_one).then(|| error.clone());
                Err(error)
            }
        });
    }
    answers
}

/// Does a set until it is done, or fails for a reason that does not pass.
async fn persist<O: Operation>(
    engine: &Engine,
    requests: &[O],
) -> Result<Vec<StoreResult<O::Answer>>, Fault> {
    let mut tries = Tries::default();
    loop {
        match attempt(engine, requests).await {
            // Two sets that are in each other's way need not be so again when they are taken apart.
            Err(fault) if requests.len() > 1 && fault.may_be_of_one() => return Err(fault),
            Err(fault) if tries.again(O::NAME, &fault) => {}
            done => return done,
        }
    }
}

async fn attempt<O: Operation>(
    engine: &Engine,
    requests: &[O],
) -> Result<Vec<StoreResult<O::Answer>>, Fault> {
    let patient = tokio::time::timeout(PATIENCE, transact(engine, requests));
    patient.await.unwrap_or(Err(Fault::Silent))
}

async fn transact<O: Operation>(
    engine: &Engine,
    requests: &[O],
) -> Result<Vec<StoreResult<O::Answer>>, Fault> {
    let mut transaction = engine.begin().await?;
    let work = AssertUnwindSafe(O::run(&mut transaction, engine.terms(), requests));
    let done = match work.catch_unwind().await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Refused("the operation panicked".to_owned()).into()),
    };
    finish(transaction, O::NAME, done).await
}
