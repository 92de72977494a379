//! One incarnation: its state, its background work, and the handle that service code gets to it.

use std::{
    borrow::Cow,
    cell::{Cell as StdCell, RefCell},
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use crate::{
    cause::Cause,
    cell::{Cell, Fence, lock},
    child::{self, Child},
    decide::{Event, jitter},
    guard::{Component, catch, drop_quietly},
    host::Host,
    later::Later,
    link::{Begun, Link, LinkCore, Mail},
    service::{Answer, Health, Message, Reply, Service, Starting},
    shell::Turn,
    worker::Jitter,
};

type Task = Pin<Box<dyn Future<Output = Option<Cause>>>>;
type Note<S> = Box<dyn FnOnce(&mut S, &Scope<S>)>;

/// An incarnation. Everything in it ends with it.
pub(crate) struct Body<S: Service> {
    pub(crate) core: Arc<LinkCore<S>>,
    pub(crate) generation: u64,
    pub(crate) host: Arc<Host>,
    pub(crate) component: Arc<Component>,
    pub(crate) drain: Drain,
    pub(crate) children: RefCell<HashMap<u64, AbortHandle>>,
    next_child: StdCell<u64>,
    state: RefCell<Option<S>>,
    notes: RefCell<VecDeque<Note<S>>>,
    tasks: RefCell<FuturesUnordered<Task>>,
}

impl<S: Service> Body<S> {
    pub(crate) fn new(core: &Arc<LinkCore<S>>, generation: u64, host: &Arc<Host>) -> Rc<Self> {
        let fence = Fence::new(&core.cell, generation);
        Rc::new(Self {
            core: Arc::clone(core),
            generation,
            host: Arc::clone(host),
            component: Component::service(Arc::clone(&core.cell.name), Some(fence)),
            drain: Drain::new(),
            children: RefCell::default(),
            next_child: StdCell::new(0),
            state: RefCell::new(None),
            notes: RefCell::default(),
            tasks: RefCell::default(),
        })
    }

    pub(crate) fn cell(&self) -> &Arc<Cell> {
        &self.core.cell
    }

    pub(crate) fn fence(&self) -> Fence {
        Fence::new(self.cell(), self.generation)
    }

    /// Builds the state; `dismantle` is what ends it.
    pub(crate) fn create(&self) {
        let state = (self.core.factory)();
        *self.state.borrow_mut() = Some(state);
    }

    fn with<T>(self: &Rc<Self>, work: impl FnOnce(&mut S, &Scope<S>) -> T) -> Option<T> {
        let scope = Scope(Rc::clone(self));
        self.state.borrow_mut().as_mut().map(|state| work(state, &scope))
    }

    pub(crate) fn start(self: &Rc<Self>) -> Starting {
        self.with(S::start).unwrap_or(Starting::Ready)
    }

    pub(crate) fn stop(self: &Rc<Self>) -> LocalBoxFuture<'static, ()> {
        self.drain.begin();
        let stopping = self.with(S::stop);
        stopping.unwrap_or_else(|| Box::pin(std::future::ready(())))
    }

    pub(crate) fn answer<M: Message>(self: &Rc<Self>, mail: Mail<M>)
    where
        S: Answer<M>,
    {
        let Some(begun) = mail.begin() else { return };
        let Begun { message, mut slot, deadline, span } = begun;
        let reply = span.in_scope(|| self.with(|state, scope| state.answer(message, scope)));
        match reply {
            Some(Reply::Now(answer)) => slot.settle(Ok(answer)),
            Some(Reply::Later(answer)) => {
                self.spawn(Later::new(answer, slot, deadline, span));
            }
            None => {}
        }
    }

    /// Runs a future in the incarnation's context: its panic is the incarnation's death.
    pub(crate) fn spawn(&self, task: impl Future<Output = Option<Cause>> + 'static) {
        self.tasks.borrow().push(Box::pin(task));
        self.cell().waker.wake();
    }

    fn notify(&self, note: Note<S>) {
        self.notes.borrow_mut().push_back(note);
        self.cell().waker.wake();
    }

    /// Runs notes and futures that are due, within the turn's budget.
    pub(crate) fn poll_background(
        self: &Rc<Self>,
        turn: &mut Turn,
        context: &mut Context<'_>,
    ) -> Poll<Cause> {
        while !turn.is_spent() {
            let Some(note) = self.notes.borrow_mut().pop_front() else { break };
            self.with(note);
            turn.spend(Instant::now());
        }
        let mut tasks = self.tasks.borrow_mut();
        while !turn.is_spent() {
            match tasks.poll_next_unpin(context) {
                Poll::Ready(Some(Some(cause))) => return Poll::Ready(cause),
                Poll::Ready(Some(None)) => turn.spend(Instant::now()),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        drop(tasks);
        if turn.is_spent() || !self.notes.borrow().is_empty() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Draws delays from the tree's randomness.
    pub(crate) fn jitter(&self) -> Jitter {
        let tree = self.cell().tree().cloned();
        Box::new(move |bound| match &tree {
            Some(tree) => jitter(bound, &mut *lock(&tree.rng)),
            None => bound,
        })
    }

    /// Says whether nothing is left that the incarnation has begun.
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.borrow().is_empty() && self.notes.borrow().is_empty()
    }

    /// Ends the incarnation. Destructors may panic; that is logged and goes no further.
    pub(crate) fn dismantle(&self) {
        for (_, child) in self.children.borrow_mut().drain() {
            child.abort();
        }
        let notes = std::mem::take(&mut *self.notes.borrow_mut());
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        let state = self.state.borrow_mut().take();
        let ended = catch(&self.component, || {
            for task in tasks {
                drop_quietly(task);
            }
            for note in notes {
                drop_quietly(note);
            }
            drop_quietly(state);
        });
        if let Err(cause) = ended {
            tracing::error!(component = %self.component, %cause, "an incarnation fell apart badly");
        }
    }
}

/// What a thread asks of the incarnations that it hosts.
pub(crate) trait Probe {
    /// Asks the service how it is and notes the answer in its cell.
    fn probe(&self);
}

impl<S: Service> Probe for Body<S> {
    fn probe(&self) {
        let _polling = self.host.enter(self.cell().id);
        let asked = catch(&self.component, || self.state.borrow().as_ref().map(Service::health));
        match asked {
            Ok(Some(health)) => self.cell().answer_probe(self.generation, health),
            Ok(None) => {}
            Err(cause) => self.cell().report(self.generation, Event::Died(cause)),
        }
    }
}

/// What service code may do: know itself, run children, send itself messages, see the drain.
///
/// It belongs to one incarnation and stays on its thread.
pub struct Scope<S: Service>(pub(crate) Rc<Body<S>>);

impl<S: Service> Clone for Scope<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: Service> fmt::Debug for Scope<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Scope({} #{})", self.name(), self.generation())
    }
}

impl<S: Service> Scope<S> {
    /// Returns the service's name.
    pub fn name(&self) -> &str {
        &self.0.cell().name
    }

    /// Returns the number of the incarnation.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Returns a fence that lapses when the incarnation is replaced.
    pub fn fence(&self) -> Fence {
        self.0.fence()
    }

    /// Returns the service's own link.
    pub fn link(&self) -> Link<S> {
        Link(Arc::clone(&self.0.core))
    }

    /// Starts a temporary child: a future whose panic fails only its own result.
    ///
    /// It runs on the service's thread, until it is done, [aborted](Child::abort) or the
    /// incarnation ends. Dropping the handle lets it run on.
    pub fn child<F>(&self, label: impl Into<Cow<'static, str>>, future: F) -> Child<F::Output>
    where
        F: Future + 'static,
    {
        let number = self.0.next_child.get();
        self.0.next_child.set(number + 1);
        child::spawn(&self.0, number, label.into(), future)
    }

    /// Returns how many children are running.
    pub fn children(&self) -> usize {
        self.0.children.borrow().len()
    }

    /// Sees when the incarnation is asked to end its work.
    pub fn draining(&self) -> Drain {
        self.0.drain.clone()
    }

    /// Sends the incarnation a message, past the mailbox and its bound; the answer is dropped.
    ///
    /// For children that report to their service. Also delivered while the service drains.
    pub fn notify<M: Message>(&self, message: M)
    where
        S: Answer<M>,
    {
        self.0.notify(Box::new(move |state, scope| {
            if let Reply::Later(work) = state.answer(message, scope) {
                scope.0.spawn(Later::unasked(async move { drop(work.await) }));
            }
        }));
    }

    /// Runs a future in the incarnation's context: its panic is the incarnation's death, and a
    /// drain waits for its end.
    pub(crate) fn run(&self, work: impl Future<Output = ()> + 'static) {
        self.0.spawn(Later::unasked(work));
    }
}

/// The sign that an incarnation is to end its work. Clone it into whatever should see it.
#[derive(Debug, Clone)]
pub struct Drain(Arc<Draining>);

#[derive(Debug)]
struct Draining {
    begun: AtomicBool,
    waiting: Notify,
}

impl Drain {
    fn new() -> Self {
        Self(Arc::new(Draining { begun: AtomicBool::new(false), waiting: Notify::new() }))
    }

    fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
        self.0.waiting.notify_waiters();
    }

    /// Says whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Waits for the drain to begin.
    pub async fn wait(&self) {
        let notified = self.0.waiting.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_draining() {
            notified.await;
        }
    }
}

impl Cell {
    /// Notes what a service said of itself, unless it has been replaced since it was asked.
    pub(crate) fn answer_probe(self: &Arc<Self>, generation: u64, health: Health) {
        if self.generation() != generation {
            return;
        }
        let Some(tree) = self.tree() else { return };
        let well = health.status == crate::service::HealthStatus::Ok;
        lock(&self.probed).answer(health, tree.now());
        let reported_well = self.gate().state != crate::event::ServiceState::Degraded;
        if well != reported_well {
            self.report(generation, Event::Health { well });
        }
    }
}
