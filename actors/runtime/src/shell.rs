//! The one actor type behind all services, and the context that it performs on.
//!
//! actix's own context drains its mailbox before it looks at anything else. This one stops taking
//! messages when a turn's budget is spent, so that neighbours and timers on the thread get theirs.

use std::{fmt, marker::PhantomData, rc::Rc, time::Duration};

use actix::{
    Actor, ActorContext, ActorState, Addr, AsyncContext, Handler, SpawnHandle, Supervised,
    dev::{AsyncContextParts, ContextFut, ContextParts, Envelope, Mailbox, ToEnvelope, channel},
    fut::ActorFuture,
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    link::Mail,
    scope::Body,
    service::{Answer, Message, Service},
};

/// Messages that one turn of an actor may take.
pub(crate) const TURN_MESSAGES: u32 = 64;
/// Time that one turn of an actor may take before it yields.
pub(crate) const TURN_TIME: Duration = Duration::from_millis(1);

/// The budget of one turn.
#[derive(Debug)]
pub(crate) struct Turn {
    used: u32,
    ends: Instant,
    spent: bool,
}

impl Turn {
    pub(crate) fn begin() -> Self {
        Self { used: 0, ends: Instant::now() + TURN_TIME, spent: false }
    }

    /// Counts one message or future that took its turn until `now`.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.used += 1;
        self.spent = self.used >= TURN_MESSAGES || now >= self.ends;
    }

    pub(crate) const fn is_spent(&self) -> bool {
        self.spent
    }
}

/// The actor: it has no state of its own, as the incarnation is on the stage.
pub(crate) struct Shell<S>(PhantomData<fn() -> S>);

/// The context: mailbox, turn budget and the incarnation that performs.
pub(crate) struct Stage<S: Service> {
    parts: ContextParts<Shell<S>>,
    pub(crate) turn: Turn,
    background_first: bool,
    pub(crate) body: Option<Rc<Body<S>>>,
}

/// The sending and receiving end of a new mailbox. Permits bound it, actix does not.
pub(crate) fn mailbox<S: Service>() -> (Addr<Shell<S>>, channel::AddressReceiver<Shell<S>>) {
    let (sender, receiver) = channel::channel(0);
    (Addr::new(sender), receiver)
}

/// Sets a stage before the given mailbox.
pub(crate) fn stage<S: Service>(
    receiver: channel::AddressReceiver<Shell<S>>,
) -> ContextFut<Shell<S>, Stage<S>> {
    let mailbox = Mailbox::new(receiver);
    let parts = ContextParts::new(mailbox.sender_producer());
    let stage = Stage { parts, turn: Turn::begin(), background_first: true, body: None };
    ContextFut::new(stage, Shell(PhantomData), mailbox)
}

impl<S: Service> Stage<S> {
    /// Says whether what runs in the background comes before the mailbox; every other time it does.
    pub(crate) const fn alternate(&mut self) -> bool {
        self.background_first = !self.background_first;
        self.background_first
    }
}

impl<S: Service> Actor for Shell<S> {
    type Context = Stage<S>;
}

impl<S: Service> Supervised for Shell<S> {}

impl<S: Answer<M>, M: Message> Handler<Mail<M>> for Shell<S> {
    type Result = ();

    fn handle(&mut self, mail: Mail<M>, stage: &mut Stage<S>) {
        if let Some(body) = stage.body.clone() {
            body.answer(mail);
        }
        stage.turn.spend(Instant::now());
    }
}

impl<S: Service> fmt::Debug for Stage<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stage").field("turn", &self.turn).finish_non_exhaustive()
    }
}

impl<S: Service> ActorContext for Stage<S> {
    fn stop(&mut self) {
        self.parts.stop();
    }

    fn terminate(&mut self) {
        self.parts.terminate();
    }

    fn state(&self) -> ActorState {
        self.parts.state()
    }
}

impl<S: Service> AsyncContext<Shell<S>> for Stage<S> {
    fn spawn<F>(&mut self, future: F) -> SpawnHandle
    where
        F: ActorFuture<Shell<S>, Output = ()> + 'static,
    {
        self.parts.spawn(future)
    }

    fn wait<F>(&mut self, future: F)
    where
        F: ActorFuture<Shell<S>, Output = ()> + 'static,
    {
        self.parts.wait(future);
    }

    /// The mailbox asks this before it takes a message.
    fn waiting(&self) -> bool {
        self.turn.is_spent() || self.parts.waiting()
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        self.parts.cancel_future(handle)
    }

    fn address(&self) -> Addr<Shell<S>> {
        self.parts.address()
    }
}

impl<S: Service> AsyncContextParts<Shell<S>> for Stage<S> {
    fn parts(&mut self) -> &mut ContextParts<Shell<S>> {
        &mut self.parts
    }
}

impl<S: Answer<M>, M: Message> ToEnvelope<Shell<S>, Mail<M>> for Stage<S> {
    fn pack(mail: Mail<M>, answer: Option<oneshot::Sender<()>>) -> Envelope<Shell<S>> {
        Envelope::new(mail, answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_spent_after_64_messages_or_a_millisecond() {
        let mut turn = Turn::begin();
        let now = Instant::now();
        for _ in 1..TURN_MESSAGES {
            turn.spend(turn.ends - Duration::from_nanos(1));
            assert!(!turn.is_spent());
        }
        turn.spend(now);
        assert!(turn.is_spent(), "64 messages");
        let mut turn = Turn::begin();
        turn.spend(turn.ends);
        assert!(turn.is_spent(), "one message of a millisecond");
        assert_eq!((TURN_MESSAGES, TURN_TIME), (64, Duration::from_millis(1)));
    }
}
